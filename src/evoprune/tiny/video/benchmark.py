"""The video split of the embedded benchmark: fixed dev and test questions, a batched runner, what guessers reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..benchmark import Example, Result
from ..pixels import Split
from ..scenes import COLOUR_NAMES
from . import questions
from .clips import FRAMES, Clip, clip

CLIPS = 320  # about 1,500 questions a split
SEED = 2027
MIDDLE = FRAMES // 2


@lru_cache(maxsize=CLIPS)
def film(split: Split, number: int) -> Clip:
    """Clip `number` of the benchmark's split."""
    return clip(split, SEED, number)


@lru_cache(maxsize=8)
def examples(split: Split, clips: int = CLIPS) -> tuple[Example, ...]:
    """The questions of a split: one of every kind that each of its first `clips` clips answers.

    Raises
    ------
    ValueError
        For an unknown split.
    """
    rows = []
    for number in range(clips):
        asked = questions.one_of_each(film(split, number), np.random.default_rng([SEED, number]))
        rows += [Example(number, q.kind, q.text, q.answer) for q in asked]
    return tuple(rows)


def prompt(processor: Any, text: str, blind: bool = False) -> str:
    """The prompt that the chat template makes of a question about one clip, or about none."""
    content = [] if blind else [{"type": "video"}]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
    return processor.apply_chat_template(chat, add_generation_prompt=True)


def inputs(processor: Any, split: Split, asked: Sequence[Example], frames: Sequence[int] | None = None) -> Any:
    """What the model reads for some questions: the processor's output, prompts padded on the left.

    Parameters
    ----------
    frames
        Numbers of the frames that are shown; all if None, and none leaves the clip out.
    """
    blind = frames is not None and not frames
    text = [prompt(processor, e.question, blind) for e in asked]
    shown = slice(None) if frames is None else list(frames)
    films = {} if blind else {"videos": [film(split, e.scene).frames[shown] for e in asked]}
    return processor(text=text, **films, return_tensors="pt", padding=True, add_special_tokens=False)


@torch.no_grad()
def answers(
    model: Any,
    processor: Any,
    split: Split,
    asked: Sequence[Example],
    *,
    batch: int = 40,
    frames: Sequence[int] | None = None,
) -> Iterator[str]:
    """Answer questions in batches through the processor and ``generate``, as a user would.

    Parameters
    ----------
    model, processor
        The embedded video model, pruned or not, and its processor.
    split
        Where the clips come from.
    asked
        Questions to answer.
    batch
        Questions a call.
    frames
        Numbers of the frames that are shown; all if None, and none leaves the clip out.

    Yields
    ------
    str
        One answer a question, in order.
    """
    for start in range(0, len(asked), batch):
        read = inputs(processor, split, asked[start : start + batch], frames).to(model.device)
        if "pixel_values_videos" in read:
            read["pixel_values_videos"] = read["pixel_values_videos"].to(model.dtype)
        out = model.generate(**read, max_new_tokens=2, do_sample=False)
        new = out[:, read["input_ids"].shape[1] :]
        yield from (word.strip() for word in processor.batch_decode(new, skip_special_tokens=True))


def run(
    model: Any,
    processor: Any,
    split: Split,
    *,
    clips: int = CLIPS,
    batch: int = 40,
    frames: Sequence[int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Result:
    """Run the benchmark; `frames` as in `answers`; `advance` is told the number of questions answered so far."""
    asked = examples(split, clips)
    said = []
    for word in answers(model, processor, split, asked, batch=batch, frames=frames):
        said.append(word)
        if advance is not None:
            advance(len(said))
    return Result(asked, tuple(said))


@lru_cache(maxsize=1)
def commonest() -> dict[str, str]:
    """The commonest answer of every kind in 200 training clips."""
    counts: dict[str, Counter[str]] = {}
    for number in range(200):
        for q in questions.one_of_each(clip("train", SEED, number), np.random.default_rng(number)):
            counts.setdefault(q.kind, Counter())[q.answer] += 1
    return {kind: found.most_common(1)[0][0] for kind, found in counts.items()}


def constant(asked: Sequence[Example]) -> np.ndarray:
    """float (n,): what saying every kind's commonest answer scores; needs neither clip nor model."""
    return np.array([float(commonest()[e.kind] == e.answer) for e in asked])


def one_frame_reader(split: Split, asked: Sequence[Example], frame: int = MIDDLE) -> np.ndarray:
    """float (n,): expected score of a reader who sees every digit and colour of one frame and guesses the rest.

    Questions for a digit or a colour are answered by one of those that the frame shows, the others as in `constant`.
    """
    scores = constant(asked)
    for number, e in enumerate(asked):
        shown = [m for m in film(split, e.scene).movers if frame in m.seen]
        if e.kind in ("moves_left", "first"):
            there = [str(m.digit) for m in shown]
        elif e.kind == "last_colour":
            there = [COLOUR_NAMES[m.colour] for m in shown]
        else:
            continue
        if there:
            scores[number] = (e.answer in there) / len(there)
    return scores
