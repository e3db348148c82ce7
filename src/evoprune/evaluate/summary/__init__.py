"""The summary of a folder of results, from its files alone: no times, no machine, the same bytes everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arms import FRAMES, SANITY
from ..catalogue.table import benchmark
from ..embedded.tasks import TASKS
from ..folder import Folder
from .overall import overall
from .rows import Row, budgets, rows
from .task import task_summary

FORMAT = "evoprune.summary/1"
DIGITS = 6
EXACTLY = ("p", "q", "p_floor")  # digits enough already


def summarise(folder: Folder) -> dict[str, Any]:
    """Return the statistics of all cells that are done, as JSON values.

    Parameters
    ----------
    folder
        Finished or not: what needs a cell that is not there is null.

    Returns
    -------
    dict
        ``configuration`` of the folder; ``sanity``, whether every budget has all its sanity baselines, and ``missing``,
        which it has not; ``tasks``, one entry an arm (`task.task_summary`); ``overall``, relative accuracies over all
        benchmarks, ``benchmarks``, the tasks that each is the mean of, and ``incomplete``, the arms without some task
        (`overall.overall`).

    Raises
    ------
    FolderError
        Answers that do not fit the questions, or scores that are none.
    """
    found, tasks = {}, {}
    for task in folder.tasks:
        questions = folder.questions(task)
        found[task] = rows(folder, task, questions)
        tasks[task] = task_summary(questions, found[task])
    missing = [gap for task in found for gap in _missing(task, found[task], video(task, found[task]))]
    rest = {"sanity": not missing, "missing": missing, "tasks": tasks, **overall(found)}
    return {"format": FORMAT, "configuration": folder.configuration, **rounded(rest)}


def rounded(value: Any) -> Any:
    """Return JSON values with all floats rounded, which no machine's last bit changes; p-values have digits enough."""
    if isinstance(value, Mapping):
        return {name: one if name in EXACTLY else rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(float(value), DIGITS) + 0.0 if isinstance(value, float) else value


def video(task: str, found: Sequence[Row]) -> bool:
    """Whether a task shows videos, as its arms or the tasks that are known here tell; not what else is installed."""
    if any(row.arm.method == FRAMES for row in found):
        return True
    known = benchmark(task)
    return known.modality == "video" if known is not None else TASKS.get(task) == "video"


def _missing(task: str, found: Sequence[Row], moving: bool) -> list[dict[str, Any]]:
    gaps = []
    for members in budgets(found).values():
        keep = members[0].arm.keep
        for method in (*SANITY, *([FRAMES] if moving else [])):
            those = [row for row in members if row.arm.method == method]
            if not any(row.error is None for row in those):
                gaps.append({"task": task, "keep": keep, "method": method, "error": those[0].error if those else None})
    return gaps
