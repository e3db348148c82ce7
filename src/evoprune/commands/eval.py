"""``evoprune eval``: a sweep of methods x keeps x tasks that can be stopped and gone on with, and what it shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from ..evaluate.arms import Arm
from ..evaluate.folder import Folder
from ..evaluate.sweep import Runner, Watcher, sweep
from . import eval_words as words
from .bench_words import FRAMES
from .device import choose_device, choose_dtype
from .errors import UserError, refused
from .eval_report import report
from .loading import defaults, resolve
from .settings import value_of
from .terminal import progress, quiet, watched


def run(wanted: words.Wanted, outputs: words.Outputs) -> None:
    """Check what can be wrong, run what the folder has not yet, and report.

    Raises
    ------
    UserError
        Names, settings, data, a model or a folder that cannot be used.
    """
    outputs.check()
    words.check(wanted)
    if outputs.report:
        with refused(ValueError):
            report(Folder(outputs.folder), wanted, outputs)  # type: ignore[arg-type]
        return
    shown = watched(outputs.json)
    quiet(shown=False)
    wanted = words.of_paper(wanted)
    model, cells = words.planned(wanted)
    harness = words.harness(wanted, model, cells)
    path = outputs.folder or words.default_folder(wanted, model)
    for check, value in ((choose_device, wanted.device), (choose_dtype, wanted.dtype)):
        check(value)
    _check_model(model, wanted)
    if harness == words.LMMS_EVAL:
        _quiet_harness()
        _check_data(cells, wanted)
    with progress(shown) as bars:
        step = bars.add_task(f"Loading {model}", total=None)
        with refused(ValueError, ImportError):
            runner = _runner(wanted, model, harness)
        bars.remove_task(step)
        with refused(ValueError), _folder(path, runner) as folder:
            crashed = _swept(runner, cells, folder, Bars(bars), wanted)
            if wanted.latency and runner.main:
                _time(runner, cells, folder, wanted, bars)
    if runner.main:
        with refused(ValueError):
            report(Folder(path), wanted, outputs)
    runner.close()
    for sentence in crashed:
        typer.echo(f"Error: {sentence}", err=True)
    if crashed:
        raise typer.Exit(1)


class Bars(Watcher):
    """Two progress bars: the sweep, and the cell in progress."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars

    def begin(self, cells: int, done: int) -> None:
        self.whole = self.bars.add_task("cells", total=cells, completed=done)
        self.part = self.bars.add_task("", total=None, visible=False)

    def cell(self, task: str, arm: Arm, questions: int) -> None:
        seed = "" if arm.seed is None else f" seed {arm.seed}"
        keep = "" if arm.keep is None else f" {arm.keep}"
        self.bars.reset(self.part, description=f"{task}: {arm.name}{keep}{seed}", total=questions or None, visible=True)

    def advance(self, answered: int) -> None:
        self.bars.update(self.part, completed=answered)

    def end(self, task: str, arm: Arm, error: str | None) -> None:
        self.bars.advance(self.whole)


def _check_model(model: str, wanted: words.Wanted) -> None:
    """Refuse a model that is not there, and one of the paper's that cannot be loaded as it is."""
    resolve(model)
    if wanted.paper is not None and wanted.model is None:
        from ..evaluate import paper

        if hint := paper.find(wanted.paper).hint:
            raise UserError(f"{model} cannot be loaded as it is: {hint}")


def _quiet_harness() -> None:
    """Keep lmms-eval's debugging notes and the bars of data sets off the terminal; its errors stay."""
    try:
        import datasets
        import lmms_eval.models  # noqa: F401  # it sends its warnings to stdout when it is imported
        from loguru import logger
    except ImportError:
        return  # the check of the data says what is missing
    datasets.disable_progress_bars()
    logger.remove()
    logger.add(sys.stderr, level="ERROR")


def _check_data(cells: words.Cells, wanted: words.Wanted) -> None:
    from ..evaluate import catalogue

    tasks = list(dict.fromkeys(task for task, _ in cells))
    with refused(ValueError, ImportError):
        catalogue.check_frames(wanted.frames, tasks)
        catalogue.check_data(tasks, wanted.limit)


def _runner(wanted: words.Wanted, model: str, harness: str) -> Runner:
    if harness == words.BATCHED:
        from ..evaluate.embedded.runner import Embedded

        place, kind = choose_device(wanted.device), choose_dtype(wanted.dtype)
        return Embedded(
            model, limit=wanted.limit, batch=wanted.batch, dtype=None if isinstance(kind, str) else kind,
            device=str(place), options=wanted.options, defaults=defaults(model),
        )  # fmt: skip
    from ..evaluate.lmms.runner import LmmsEval

    return LmmsEval(
        model, base=wanted.base, model_args=_pairs("--model-args", wanted.model_args), limit=wanted.limit,
        batch=wanted.batch, dtype=wanted.dtype, device=wanted.device, attention=wanted.attention, frames=wanted.frames,
        options=wanted.options, defaults=defaults(model), gen_kwargs=_pairs("--gen-kwargs", wanted.gen_kwargs),
    )  # fmt: skip


def _pairs(flag: str, texts: Any) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or name in found:
            raise UserError(f"{flag} {text!r} is no argument: write name=value once")
        found[name] = value_of(value)
    return found


@contextmanager
def _folder(path: Path, runner: Runner) -> Iterator[Folder]:
    from ..bench.manifest import manifest

    with Folder(path, {"harness": runner.harness, **runner.configuration()}, writes=runner.main) as folder:
        folder.begin(manifest("scipy", "lmms-eval", "datasets", "accelerate", **runner.configuration()))
        yield folder


def _swept(runner: Runner, cells: words.Cells, folder: Folder, watcher: Watcher, wanted: words.Wanted) -> list[str]:
    try:
        return sweep(runner, cells, folder, watcher, wanted.keep_going)
    except KeyboardInterrupt:
        done = sum(folder.done(task, arm) for task, arm in cells)
        typer.echo(f"Stopped: {done} of {len(cells)} cells are done; the same command goes on behind them.", err=True)
        raise typer.Exit(130) from None


def _time(runner: Any, cells: words.Cells, folder: Folder, wanted: words.Wanted, bars: Progress) -> None:
    """Time every arm, with pictures or, where all tasks show videos, with a video."""
    from ..evaluate import latency

    step = bars.add_task("times", total=None)
    video = all(runner.video(task) for task, _ in cells)
    latency.measure(
        runner.model,
        runner.processor,
        list({arm.slug: arm for _, arm in cells}.values()),
        folder=folder,
        defaults=defaults(wanted.model or ""),
        options=wanted.options,
        frames=(wanted.frames or FRAMES) if video else None,
        batch=wanted.latency_batch,
        repeats=wanted.repeats,
        advance=lambda what, done, steps: bars.update(step, description=f"times: {what}", completed=done, total=steps),
    )
    bars.remove_task(step)
