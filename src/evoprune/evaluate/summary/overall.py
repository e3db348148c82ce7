"""Accuracies over all benchmarks, of which one may have several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from ..arms import FULL, Arm
from ..catalogue.table import benchmark
from .rows import Row


def relative_accuracies(accuracies: Sequence[float], full: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean over tasks of accuracy / unpruned accuracy, and the ratio of the two mean accuracies.

    The first weighs every task alike, the second by the unpruned accuracy. Papers give either, often without its name.
    None where the unpruned model has nothing right on a task (the first), or on all (the second).
    """
    if not full:
        return None, None
    of_ratios = None if 0 in full else sum(a / b for a, b in zip(accuracies, full, strict=True)) / len(full)
    return of_ratios, (sum(accuracies) / sum(full) if sum(full) else None)


def overall(found: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Return what is said over all tasks.

    Parameters
    ----------
    found
        The rows of each task.

    Returns
    -------
    dict
        ``overall``: accuracies of the arms that ran on every task; the parts of a benchmark (MVBench has 20) are
        averaged first, so that it counts once. ``benchmarks``: by name, the tasks whose mean each is. ``incomplete``:
        the arms that are left out, with the tasks that they lack and why the model refused the first of those, null
        where it was not run.
    """
    parts: dict[str, list[str]] = {}
    for task in found:
        known = benchmark(task)
        parts.setdefault(task if known is None else known.name, []).append(task)
    done = {
        task: {row.arm.slug: row for row in members if row.error is None and len(row.scores)}
        for task, members in found.items()
    }
    arms = {row.arm.slug: row.arm for members in found.values() for row in members}
    full = Arm(FULL).slug
    complete = {slug: arm for slug, arm in arms.items() if all(slug in members for members in done.values())}
    native = _means(full, parts, done) if full in complete else None
    return {
        "overall": [_entry(arm, parts, done, native) for arm in complete.values()],
        "benchmarks": parts,
        "incomplete": [_lack(arm, found, done) for slug, arm in arms.items() if slug not in complete],
    }


def _means(slug: str, parts: Mapping[str, Sequence[str]], done: Mapping[str, Mapping[str, Row]]) -> list[float]:
    """Return an arm's accuracy on each benchmark."""
    return [fmean(float(done[task][slug].scores.mean()) for task in tasks) for tasks in parts.values()]


def _entry(
    arm: Arm, parts: Mapping[str, Sequence[str]], done: Mapping[str, Mapping[str, Row]], native: Sequence[float] | None
) -> dict[str, Any]:
    accuracies = _means(arm.slug, parts, done)
    of_ratios, of_means = (None, None) if native is None else relative_accuracies(accuracies, native)
    return {
        "name": arm.name,
        "arm": replace(arm, seed=None).to_dict(),
        "seeds": min(members[arm.slug].seeds for members in done.values()),
        "mean_of_ratios": of_ratios,
        "ratio_of_means": of_means,
        "mean_accuracy": fmean(accuracies),
    }


def _lack(arm: Arm, found: Mapping[str, Sequence[Row]], done: Mapping[str, Mapping[str, Row]]) -> dict[str, Any]:
    tasks = [task for task in found if arm.slug not in done[task]]
    errors = [row.error for task in tasks for row in found[task] if row.arm.slug == arm.slug and row.error is not None]
    return {
        "name": arm.name,
        "arm": replace(arm, seed=None).to_dict(),
        "tasks": tasks,
        "error": next(iter(errors), None),
    }
