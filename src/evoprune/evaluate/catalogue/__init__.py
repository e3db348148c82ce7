"""The benchmarks: from names to tasks, what they show, and whether their data is there before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from ..embedded.tasks import TASKS as EMBEDDED
from . import index
from .data import DataMissing, check_data, include_paths
from .judges import check_judges, judge
from .table import BENCHMARKS, GROUPS, Benchmark, benchmark

__all__ = [
    "BENCHMARKS",
    "GROUPS",
    "Benchmark",
    "DataMissing",
    "benchmark",
    "check_data",
    "check_frames",
    "check_judges",
    "generation",
    "include_paths",
    "judge",
    "markdown",
    "modality",
    "resolve",
]


def resolve(names: Sequence[str]) -> list[str]:
    """Return the lmms-eval tasks that the names stand for, in order and without repeats.

    Parameters
    ----------
    names
        Benchmarks (``"vqav2"``, ``"MM-Vet"``), groups (``"paper-images"``), embedded tasks, and any task or group of
        lmms-eval. A benchmark goes before a group of lmms-eval of the same name, which may hold splits without answers.

    Raises
    ------
    ValueError
        An unknown name, with the nearest ones, or a task that cannot be scored here, with what it needs.
    """
    if not names:
        raise ValueError(f"no task is named: give some of {', '.join(_told())}")
    tasks = list(dict.fromkeys(task for name in names for task in _resolve(name)))
    for task in tasks:
        _scored(task)
    return tasks


def _resolve(name: str) -> list[str]:
    known = {_folded(one.name): one for one in BENCHMARKS} | {_folded(one.title): one for one in BENCHMARKS}
    groups = {_folded(group): members for group, members in GROUPS.items()}
    own = {_folded(task): task for task in EMBEDDED}
    if _folded(name) in own:
        return [own[_folded(name)]]
    if any(name in one.tasks for one in BENCHMARKS):
        return [name]
    if _folded(name) in groups:
        return [task for member in groups[_folded(name)] for task in _resolve(member)]
    if _folded(name) in known:
        return list(known[_folded(name)].tasks)
    try:
        tasks = index.paths()
    except ValueError:  # no lmms-eval, whose tasks are unknown then
        tasks = {}
    if name in tasks:
        return list(index.leaves(name))
    near = {_folded(one): one for one in [*tasks, *_told()]}
    found = [near[one] for one in get_close_matches(_folded(name), list(near), n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(map(repr, found))}? " if found else ""
    raise ValueError(f"unknown task {name!r}: {hint}choose of {', '.join(_told())}, or any task of lmms-eval")


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _told() -> list[str]:
    return [*EMBEDDED, *(one.name for one in BENCHMARKS), *GROUPS]


def _scored(task: str) -> None:
    """Refuse tasks that only write a file for a server, or that do not let the model write an answer."""
    if task in EMBEDDED or benchmark(task) is not None:
        return
    found = index.config(index.paths()[task])
    metrics = [str(one.get("metric")) for one in found.get("metric_list") or []]
    if metrics and all("submission" in metric for metric in metrics):
        others = [one for one in BENCHMARKS if task in one.others]
        instead = f"run {others[0].tasks[0]}" if others else "choose a split with public answers"
        raise ValueError(f"{task} has no public answers and only writes a file for its server: {instead}")
    kind = found.get("output_type", "generate_until")
    if kind != "generate_until":
        raise ValueError(f"{task} asks for {kind}, and pruned models are scored by what they generate: leave it out")


def modality(task: str) -> str:
    """Return ``"video"`` where a task shows videos, ``"image"`` otherwise."""
    found = benchmark(task)
    if task in EMBEDDED or found is not None:
        return EMBEDDED[task] if found is None else found.modality
    path = index.paths().get(task)
    kwargs = {} if path is None else index.config(path).get("dataset_kwargs") or {}
    return "video" if kwargs.get("video") or kwargs.get("From_YouTube") else "image"


def check_frames(frames: int | None, tasks: Sequence[str]) -> None:
    """Refuse a number of frames where no task shows videos; ValueError with the sentence."""
    if frames is not None and all(modality(task) == "image" for task in tasks):
        raise ValueError(f"frames={frames} is for videos, and {', '.join(tasks)} shows pictures alone: leave it out")


def generation(task: str) -> dict[str, float | bool]:
    """Return the settings of generation that replace the task's own: those that make it greedy where it is not.

    MM-Vet's file gives a temperature and ``do_sample: false``; model classes sample wherever there is a temperature.
    """
    if task in EMBEDDED:
        return {}
    found = index.config(index.paths()[task]).get("generation_kwargs") or {}
    return {"temperature": 0, "do_sample": False} if float(found.get("temperature") or 0) > 0 else {}


def markdown() -> str:
    """Return the table of all benchmarks for the documentation."""
    head = "| name | lmms-eval task | data set, split | one answer scores | lmms-eval reports | needs |"
    lines = [head, "|---|---|---|---|---|---|"]
    for one in BENCHMARKS:
        task = f"`{one.tasks[0]}`" if len(one.tasks) == 1 else f"`{one.name}_*` ({len(one.tasks)} parts)"
        config = f" ({one.config})" if one.config else ""
        reports = ", ".join(f"`{metric}`" for metric in one.metrics if metric != "submission")
        if one.official:
            reports += f": {one.official}"
        needs = "; ".join(
            [
                *(["a judge model"] if one.judge else []),
                *([f"videos in `$HF_HOME/{one.videos}`"] if one.videos else []),
                *([one.note] if one.note else []),
                *([one.others] if one.others else []),
            ]
        )
        lines.append(
            f"| `{one.name}`: {one.title} | {task} | `{one.dataset}`{config}, {one.split} | {one.sample} | {reports} | "
            f"{needs} |"
        )
    return "\n".join(lines) + "\n"
