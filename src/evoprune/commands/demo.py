"""``evoprune demo``: the embedded model answers questions with and without EvoPrune; everything is measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from .. import tiny
from ..pruners import EvoPrune
from ..show import Row, regions, sheet, survivors
from ..tiny import pixels, questions, scenes
from ..video import Clip
from .errors import UserError, refused
from .settings import parse_keep
from .terminal import check_writable, emit, out, progress, quiet, watched
from .trial import Asked, Trial, compare

SEED = 7
CROPS = 4  # scenes on crops of photographs; one more stands on a whole photograph
PATCH = 22  # pixels a side of a patch in the picture that is written


@dataclass(frozen=True)
class Demo:
    """One kind of demo: a model, questions to it, and a picture of what was kept."""

    folder: Callable[[], Path]
    load: Callable[[], tuple[Any, Any]]
    pick: Callable[[], list[Asked]]
    draw: Callable[[Sequence[Asked], Trial, Path], None]
    endings: tuple[str, ...]


def run(*, output: Path | None, keep: str, runs: int, as_json: bool, video: bool = False) -> None:
    """Ask, measure, draw, print."""
    kind = _kind(video)
    output = output or Path(f"evoprune_demo{kind.endings[0]}")
    check_writable(output, kind.endings)
    with refused(ValueError, TypeError):
        # Numbered anew, the frames of a clip are hard to tell apart: see docs/embedded-video-model.md.
        pruner = EvoPrune(parse_keep(keep), positions="original" if video else "contiguous")
    shown = watched(as_json)
    quiet(shown=False)
    with progress(shown) as bars:
        step = bars.add_task("Loading the embedded model", total=runs + 2)
        if not (kind.folder() / "config.json").is_file():
            raise UserError(f"the embedded model is missing at {kind.folder()}: install evoprune again")
        model, processor = kind.load()
        bars.update(step, description="Drawing scenes", advance=1)
        asked = kind.pick()
        bars.update(step, description=f"Answering {len(asked)} questions", advance=1)
        trial = compare(model, processor, asked, pruner, runs, lambda: bars.advance(step))
    kind.draw(asked, trial, output)
    if as_json:
        emit(trial.to_dict() | {"picture": str(output)})
    else:
        _show(asked, trial, output)


def _kind(video: bool) -> Demo:
    if not video:
        return Demo(tiny.folder, tiny.load, lambda: pick(CROPS), draw, (".png",))
    from ..tiny import video as films
    from . import demo_video

    return Demo(films.folder, films.load, demo_video.pick, demo_video.draw, demo_video.ENDINGS)


def pick(crops: int) -> list[Asked]:
    """Scenes of the test split, which the model was not trained on, with a question of another kind each.

    The whole photograph is for a person to look at: parts of it were in the training split.
    """
    photograph = max(pixels.photographs(), key=lambda photo: photo.size)
    grounds = [("crop of a photograph", scenes.scene("test", SEED, number)) for number in range(crops)]
    grounds.append(("whole photograph", scenes.scene("test", SEED, crops, photograph=photograph)))
    asked, kinds = [], set[str]()
    for number, (ground, scene) in enumerate(grounds):
        possible = questions.one_of_each(scene, np.random.default_rng([SEED, number]))
        question = min(possible, key=lambda one: one.kind in kinds)  # the first of a kind not asked yet
        kinds.add(question.kind)
        asked.append(Asked(ground, scene.image(), question.text, question.answer))
    return asked


def draw(asked: Sequence[Asked], trial: Trial, output: Path) -> None:
    """Write the sheet of pictures."""
    rows = []
    for number, one in enumerate(asked):
        picture = one.seen
        if isinstance(picture, Clip):
            raise TypeError("a clip is no picture: draw it with demo_video.draw")
        positions, sources = trial.positions[number], trial.sources[number]
        panels = [
            picture.resize((scenes.GRID * PATCH,) * 2, resample=3),
            survivors(picture, positions, scenes.GRID, patch=PATCH),
            regions(picture, sources, scenes.GRID, positions=positions, patch=PATCH),
        ]
        said = f"without: {trial.unpruned[number]}     with: {trial.pruned[number]}     right: {one.right}"
        rows.append(Row(panels, (one.question, said)))
    before, after = trial.visual_tokens
    title = f"{trial.pruner.name}: {before} visual tokens become {after}"
    headings = ("the picture", "patches that survive", "what each survivor stands for")
    sheet(title, headings, rows).save(output)


def _show(asked: Sequence[Asked], trial: Trial, output: Path) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (trial.kind, "question", "right", "without", "with EvoPrune"):
        table.add_column(heading)
    for one, plain, pruned in zip(asked, trial.unpruned, trial.pruned, strict=True):
        marked = (f"[{'green' if said == one.right else 'red'}]{escape(said)}[/]" for said in (plain, pruned))
        table.add_row(one.ground, one.question, one.right, *marked)
    console = out()
    console.print(table)
    console.print()
    console.print(_facts(len(asked), trial))
    console.print(f"\nWhat survived, and what each survivor stands for: {escape(str(output))}", soft_wrap=True)


def _facts(count: int, trial: Trial) -> Table:
    before, after = trial.visual_tokens
    read, shipped = trial.flop_ratios
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("visual tokens", f"{before} a {trial.kind} without, {after} with EvoPrune")
    table.add_row("their positions", trial.pruner.positions)
    table.add_row("layer by layer", ", ".join(map(str, trial.tokens)))
    table.add_row("FLOPs of the tower", f"{read:.3f} of the layers that the model reads, unpruned")
    if shipped != read:
        table.add_row("", f"{shipped:.3f} of the model as shipped, which runs layers that nobody reads")
    for stage, label in (("tower", "time of the tower"), ("answer", "time of the answers")):
        plain, pruned = trial.milliseconds[stage]
        table.add_row(
            label, f"{pruned / plain:.2f} of the model as shipped ({plain:.1f} ms without, {pruned:.1f} ms with)"
        )
    table.add_row("", f"medians of {trial.runs} runs in turn on {trial.device}, {count} {trial.kind}s at once")
    return table
