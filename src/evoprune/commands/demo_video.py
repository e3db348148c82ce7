"""What is special about ``evoprune demo --video``: clips, questions about time, and an animated picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..show import Film, animation, save_animation
from ..show.animation import FORMATS as ENDINGS
from ..tiny.video import clips, questions
from ..video import Clip
from .trial import Asked, Trial

__all__ = ["ENDINGS", "draw", "pick"]

SEED = 7
CLIPS = 4
GROUND = "crop of a photograph"
SIZE = 220  # pixels a side of a panel
MILLISECONDS = 600  # a frame


def pick(count: int = CLIPS) -> list[Asked]:
    """Clips of the test split, which the model was not trained on, with a question of another kind each."""
    asked, kinds = [], set[str]()
    for number in range(count):
        made = clips.clip("test", SEED, number)
        possible = questions.one_of_each(made, np.random.default_rng([SEED, number]))
        question = min(possible, key=lambda one: one.kind in kinds)  # the first of a kind not asked yet
        kinds.add(question.kind)
        asked.append(Asked(GROUND, as_clip(made.frames, f"test clip {number}"), question.text, question.answer))
    return asked


def as_clip(frames: np.ndarray, source: str) -> Clip:
    """All frames (F, H, W, 3) of a clip that was drawn, which has no clock."""
    count = len(frames)
    return Clip(frames, tuple(range(count)), None, None, count, count, source)


def films(asked: Sequence[Asked], trial: Trial) -> list[Film]:
    """Each clip with the rows of the maps that are its frames', in the order in which the tower took them."""
    made, start = [], 0
    for number, one in enumerate(asked):
        if not isinstance(one.seen, Clip):
            raise TypeError(f"{type(one.seen).__name__} is no clip: give Asked what read_video returns")
        rows = slice(start, start + len(one.seen.frames))
        said = f"without: {trial.unpruned[number]}     with: {trial.pruned[number]}     right: {one.right}"
        made.append(Film(one.seen.frames, trial.sources[rows], trial.positions[rows], (one.question, said)))
        start = rows.stop
    return made


def draw(asked: Sequence[Asked], trial: Trial, output: Path) -> None:
    """Write the animated picture."""
    before, after = trial.visual_tokens
    title = f"{trial.pruner.name}: {before} visual tokens of a clip become {after}"
    save_animation(animation(title, films(asked, trial), size=SIZE), output, milliseconds=MILLISECONDS)
