"""What has to be known beside the numbers of a table: the lines below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .names import rows_names, slug

COLUMNS = {"random": "ahead of random", "downsample": "group A"}  # and the baseline that each needs


def notes(questions: int, arms: Sequence[Mapping[str, Any]], missing: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the notes of a task at one budget.

    Parameters
    ----------
    questions
        How many were asked of each arm and seed.
    arms
        Entries of the summary, the unpruned model among them.
    missing
        The sanity baselines that did not run at this budget.
    """
    names = rows_names(arms)
    if missing:
        gaps = [f"{gap['method']} ({'not run' if gap['error'] is None else 'refused'})" for gap in missing]
        yield f"no sanity baselines: {', '.join(gaps)}"
    for method, column in COLUMNS.items():
        yield from _compared(method, column, arms, names)
    for arm in arms:
        name = names[slug(arm)]
        if arm["seeds"] > 1:
            yield f"{name} = mean of {arm['seeds']} seeds"
        if arm["error"] is not None:
            yield f"{name} refused: {arm['error']}"
        if arm["empty"]:
            asked = questions * arm["seeds"]
            yield f"warning: {arm['empty']} of {asked} answers of {name} are empty, and count as scored"
    if any(arm["group_a"] is not None and not arm["group_a"]["questions"] for arm in arms):
        yield "group A is empty: down-sampled input gets nothing wrong that the unpruned model gets right"


def _compared(method: str, column: str, arms: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[str]:
    """Yield which run of a baseline the arms are compared with, where there are several or where some have none."""
    ran = [arm for arm in arms if arm["error"] is None]
    runs = [slug(arm) for arm in ran if arm["arm"]["method"] == method]
    rest = [arm for arm in ran if arm["arm"]["method"] != method and arm["rank"] is not None]
    by_run: dict[str | None, list[str]] = {}
    for arm in rest:
        by_run.setdefault(arm["baselines"].get(method), []).append(names[slug(arm)])
    for run in runs if len(runs) > 1 else []:
        if run in by_run:
            yield f"{column}: {', '.join(by_run[run])} beside {names[run]}"
    if runs and None in by_run:
        yield f"{column}: no {method} with the settings of {', '.join(by_run[None])}"


def overall_notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the notes of the table over all tasks: what is averaged first, and which arms are left out."""
    for name, tasks in summary["benchmarks"].items():
        if len(tasks) > 1:
            yield f"{name}: the mean of its {len(tasks)} parts counts as one"
    for gap in summary["incomplete"]:
        keep = "" if gap["arm"]["keep"] is None else f" at {gap['arm']['keep']}"
        own = ", ".join(f"{name}={value}" for name, value in sorted(gap["arm"]["settings"].items()))
        arm = f"{gap['name']}{keep}{f' ({own})' if own else ''}"
        why = "" if gap["error"] is None else f" (refused: {gap['error']})"
        yield f"left out: {arm}, without {', '.join(gap['tasks'])}{why}"
