"""What stands on the command line of ``evoprune eval``, checked before any data or model is looked at."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import unknown
from ..evaluate.arms import FRAMES, FULL, SANITY, Arm, arms
from ..evaluate.embedded.tasks import MODELS, TASKS
from ..pruners import METHODS
from .errors import UserError, refused
from .loading import EMBEDDED
from .settings import given, parse_keep, schedule_of

BATCHED, LMMS_EVAL = "batched", "lmms-eval"
HARNESSES = ("auto", BATCHED, LMMS_EVAL)
ATTENTION = ("sdpa", "eager", "flash_attention_2")
Cells = list[tuple[str, Arm]]


@dataclass(frozen=True)
class Wanted:
    """What stands on the command line, as it was written."""

    model: str | None
    tasks: str | None = None
    methods: str | None = None
    keep: str | None = None
    paper: str | None = None
    settings: Sequence[str] = ()
    schedule: str | None = None
    sanity: bool = True
    harness: str = "auto"
    base: str | None = None
    model_args: Sequence[str] = ()
    gen_kwargs: Sequence[str] = ()
    limit: int | None = None
    batch: int | None = None
    frames: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    keep_going: bool = False
    latency: bool = False
    repeats: int = 5
    latency_batch: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Where results go, and what is made of them."""

    folder: Path | None
    plots: bool = False
    export: Path | None = None
    json: bool = False
    report: bool = False  # only look at what the folder has

    def check(self) -> None:
        """Refuse what could not be written at the end of a long run."""
        if self.report and self.folder is None:
            raise UserError("--report shows a folder of results: give it with --output")
        if self.plots and importlib.util.find_spec("matplotlib") is None:
            raise UserError("--plots needs matplotlib, which is not installed: pip install 'evoprune[plots]'")
        if importlib.util.find_spec("scipy") is None:
            raise UserError("statistics need scipy, which is not installed: pip install 'evoprune[eval]'")
        if self.export is not None and self.export.exists() and not self.export.is_dir():
            raise UserError(f"--export {self.export} is a file: give a folder")


def check(wanted: Wanted) -> None:
    """Refuse numbers out of range, unknown words and words that exclude each other."""
    for name, value, known in (("harness", wanted.harness, HARNESSES), ("attention", wanted.attention, ATTENTION)):
        if value not in known:
            raise UserError(unknown(f"--{name}", value, known))
    for name in ("limit", "batch", "frames", "repeats", "latency_batch"):
        value = getattr(wanted, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is too small: give at least 1")
    if wanted.paper is not None:
        for name in ("methods", "keep", "schedule"):
            if getattr(wanted, name) is not None:
                raise UserError(f"--paper {wanted.paper} says itself which {name} it runs: leave --{name} out")


def planned(wanted: Wanted) -> tuple[str, Cells]:
    """Return the model and the cells that the command line asks for, tasks resolved to lmms-eval's names.

    Raises
    ------
    UserError
        Unknown names (with the nearest), nothing to run, or a setting that no method has.
    """
    with refused(ValueError):
        if wanted.paper is not None:
            from ..evaluate import paper

            model = wanted.model or paper.find(wanted.paper).model
            settings = given(wanted.settings, ("method", "keep"))
            cells = paper.cells(wanted.paper, wanted.model, settings=settings, sanity=wanted.sanity)
            return model, _some(wanted, cells)
        if wanted.model is None:
            raise UserError("there is no model to evaluate: give a folder, a hub id, tiny or tiny-video")
        tasks = _tasks(wanted)
        return wanted.model, [(task, arm) for task in tasks for arm in _arms(wanted, task)]


def of_paper(wanted: Wanted) -> Wanted:
    """Return what was asked for with the family's options and the frames of the paper's own model, unless given."""
    from ..evaluate import paper

    if wanted.paper is None or wanted.model in EMBEDDED:
        return wanted
    with refused(ValueError):
        table = paper.find(wanted.paper)
    return replace(wanted, options={**table.options, **wanted.options}, frames=wanted.frames or table.frames)


def harness(wanted: Wanted, model: str, cells: Cells) -> str:
    """Return which runner answers: the embedded models' own for their own tasks, lmms-eval for all else."""
    tasks = {task for task, _ in cells}
    own = all(MODELS.get(task) == model for task in tasks)
    if wanted.harness == BATCHED and not own:
        odd = next(task for task in tasks if MODELS.get(task) != model)
        raise UserError(
            f"--harness batched runs tiny_scenes on tiny and tiny_clips on tiny-video, not {odd} on {model}: use "
            "--harness lmms-eval"
        )
    chosen = (BATCHED if own else LMMS_EVAL) if wanted.harness == "auto" else wanted.harness
    if chosen == BATCHED:
        if wanted.attention != ATTENTION[0]:
            raise UserError(
                f"--attention {wanted.attention} is for lmms-eval: leave it out, or give --harness lmms-eval"
            )
        for name in ("base", "model_args", "gen_kwargs", "frames"):
            if getattr(wanted, name):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} is for lmms-eval: leave it out, or give --harness lmms-eval")
    return chosen


def default_folder(wanted: Wanted, model: str) -> Path:
    """Return the folder for results where none is given."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name if os.path.isdir(model) else model)
    return Path("results") / "-".join([name, *([wanted.paper] if wanted.paper else [])])


def _tasks(wanted: Wanted) -> list[str]:
    from ..evaluate import catalogue

    names = _parts("tasks", wanted.tasks) or [task for task, model in MODELS.items() if model == wanted.model]
    if not names:
        raise UserError("--tasks is missing: give for example mme,pope, or paper-images (docs/evaluation.md)")
    return list(names) if set(names) <= set(TASKS) else catalogue.resolve(names)


def _some(wanted: Wanted, cells: Cells) -> Cells:
    """Return the cells of those tasks of a paper's table that are asked for, all by default."""
    if wanted.tasks is None:
        return cells
    asked, there = set(_tasks(wanted)), list(dict.fromkeys(task for task, _ in cells))
    if odd := sorted(asked - set(there)):
        raise UserError(f"--tasks {odd[0]} is not in {wanted.paper}: it has {', '.join(there)}")
    return [(task, arm) for task, arm in cells if task in asked]


def _arms(wanted: Wanted, task: str) -> list[Arm]:
    from ..evaluate import catalogue

    known = [FULL, *METHODS, FRAMES]
    methods = _parts("methods", wanted.methods) or ["evoprune"]
    methods = [one for name in methods for one in (METHODS if name == "all" else [FULL if name == "none" else name])]
    for name in methods:
        if name not in known:
            raise UserError(unknown("method", name, ["all", *known]))
    keeps = list(dict.fromkeys(parse_keep(part) for part in _parts("keep", wanted.keep) or ["0.25"]))
    settings = given(wanted.settings, ("method", "keep"))
    if wanted.schedule is not None:
        settings["schedule"] = schedule_of(wanted.schedule)
    having = {one.name for name in {*methods, *SANITY} & set(METHODS) for one in fields(METHODS[name])}
    for name in settings:
        if name not in having:
            raise UserError(unknown("setting", name, sorted(having - {"keep"})))
    video = (TASKS.get(task) or catalogue.modality(task)) == "video"
    return arms(methods, keeps, settings, sanity=wanted.sanity, video=video)


def _parts(name: str, text: str | None) -> list[str]:
    if text is not None and not text.replace(",", "").strip():
        raise UserError(f"--{name} {text!r} names nothing: give at least one, or leave it out")
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
