"""The summary of a folder of results, from its files alone: no times, no machine, the same bytes everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..arms import FRAMES, FULL, SANITY, Arm
from ..embedded.tasks import TASKS
from ..folder import Folder
from .rows import Row, budgets, rows
from .task import task_summary

FORMAT = "evoprune.summary/1"
DIGITS = 6


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
        which it has not; ``tasks``, one entry an arm (`task.task_summary`); ``overall``, relative accuracies
        over all tasks.

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
    missing = [gap for task in found for gap in _missing(task, found[task], video(folder, task, found[task]))]
    rest = {"sanity": not missing, "missing": missing, "tasks": tasks, "overall": _overall(found)}
    return {"format": FORMAT, "configuration": folder.configuration, **rounded(rest)}


def relative_accuracies(accuracies: Sequence[float], full: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean over tasks of accuracy / unpruned accuracy, and the ratio of the two mean accuracies.

    The first weighs every task alike, the second by the unpruned accuracy. Papers give either, often without its name.
    None where the unpruned model has nothing right on a task (the first), or on all (the second).
    """
    if not full:
        return None, None
    of_ratios = None if 0 in full else sum(a / b for a, b in zip(accuracies, full, strict=True)) / len(full)
    return of_ratios, (sum(accuracies) / sum(full) if sum(full) else None)


def rounded(value: Any) -> Any:
    """Return JSON values with all floats rounded, which no machine's last bit changes; p-values have digits enough."""
    if isinstance(value, Mapping):
        return {name: one if name in ("p", "q") else rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(float(value), DIGITS) + 0.0 if isinstance(value, float) else value


def video(folder: Folder, task: str, found: Sequence[Row]) -> bool:
    """Whether a task shows videos, as far as its name or its arms tell."""
    if any(row.arm.method == FRAMES for row in found):
        return True
    if task in TASKS:
        return TASKS[task] == "video"
    try:
        from ..catalogue import modality

        return modality(task) == "video"
    except (ImportError, ValueError, LookupError):  # a task of somebody else
        return False


def _missing(task: str, found: Sequence[Row], moving: bool) -> list[dict[str, Any]]:
    gaps = []
    for members in budgets(found).values():
        keep = members[0].arm.keep
        for method in (*SANITY, *([FRAMES] if moving else [])):
            those = [row for row in members if row.arm.method == method]
            if not any(row.error is None for row in those):
                gaps.append({"task": task, "keep": keep, "method": method, "error": those[0].error if those else None})
    return gaps


def _overall(found: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Return the accuracies over all tasks of the arms that ran on each."""
    by_slug = [{row.arm.slug: row for row in members if row.error is None} for members in found.values()]
    full = [members.get(Arm(FULL).slug) for members in by_slug]
    entries = []
    for slug, row in (by_slug[0] if by_slug else {}).items():
        if not all(slug in members and len(members[slug].scores) for members in by_slug):
            continue
        accuracies = [float(members[slug].scores.mean()) for members in by_slug]
        native = [float(one.scores.mean()) for one in full if one is not None]
        complete = len(native) == len(full)
        of_ratios, of_means = relative_accuracies(accuracies, native) if complete else (None, None)
        entries.append({
            "name": row.arm.name,
            "arm": replace(row.arm, seed=None).to_dict(),
            "seeds": min(members[slug].seeds for members in by_slug),
            "mean_of_ratios": of_ratios,
            "ratio_of_means": of_means,
            "mean_accuracy": sum(accuracies) / len(accuracies),
        })  # fmt: skip
    return entries
