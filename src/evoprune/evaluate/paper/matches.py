"""Which arm of a folder is meant by a line of the paper's tables: that one, or one with further settings if alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..arms import Arm
from .cells import Line

TOWER = "text_tower"  # which model reads the prompt is the user's choice, and no part of what a line is


def entry_of(summary: Mapping[str, Any], task: str, line: Line) -> dict[str, Any] | None:
    """Return the summary's entry of an arm, whatever its seed; None where there is none, or several may be meant.

    The arm has the line's method, budget (1 token is not the share 1.0), label and settings. Where no arm has exactly
    those, one with further settings stands for it if it is the only one; `remarks` names them.
    """
    found = candidates(summary, task, line)
    return found[0] if len(found) == 1 else None


def candidates(summary: Mapping[str, Any], task: str, line: Line) -> list[dict[str, Any]]:
    """Return the entries that a line may mean: the exact one alone, else all that have more settings than it."""
    wanted = line.arm
    same = [
        entry
        for entry in summary["tasks"].get(task, {"arms": []})["arms"]
        if _named(entry["arm"]) == (wanted.method, repr(wanted.keep), wanted.label)
    ]
    exact = [entry for entry in same if entry["arm"]["settings"] == dict(wanted.settings)]
    if exact:
        return exact
    own = {name: value for name, value in wanted.settings.items() if name != TOWER}
    return [
        entry
        for entry in same
        if all(name in entry["arm"]["settings"] and entry["arm"]["settings"][name] == own[name] for name in own)
    ]


def measured(summary: Mapping[str, Any], line: Line) -> Arm | None:
    """Return the arm as it ran, which the times go by; None where that is not one arm in all tasks."""
    found = [entry for task in summary["tasks"] for entry in candidates(summary, task, line)]
    arms = {arm.slug: arm for entry in found for arm in [Arm.from_dict(entry["arm"])]}
    if not arms:
        return line.arm
    return next(iter(arms.values())) if len(arms) == 1 else None


def remarks(summary: Mapping[str, Any], lines: Sequence[Line]) -> Iterator[str]:
    """Yield which lines stand for arms with further settings, and which may mean several arms."""
    further: dict[str, dict[str, None]] = {}
    several: dict[str, list[str]] = {}
    for line in lines:
        name = line.arm.name if line.arm.keep is None else f"{line.arm.name} {line.arm.keep}"
        for task in summary["tasks"]:
            found = candidates(summary, task, line)
            if len(found) > 1:
                several.setdefault(name, [Arm.from_dict(one["arm"]).slug for one in found])
            elif found and (more := _more(found[0], line)):
                further.setdefault(more, {})[name] = None
    for more, names in further.items():
        yield f"Run with {more}, which the table does not ask for: {', '.join(names)}."
    for name, slugs in several.items():
        yield (
            f"{name} is not measured: {' and '.join(slugs)} differ in settings, and either may be meant; run it with "
            "the table's own settings alone."
        )


def _named(arm: Mapping[str, Any]) -> tuple[Any, ...]:
    return arm["method"], repr(arm["keep"]), arm["label"]


def _more(entry: Mapping[str, Any], line: Line) -> str:
    """The settings of an entry that the line has not."""
    given = entry["arm"]["settings"]
    own = line.arm.settings
    return ", ".join(f"{name}={given[name]}" for name in sorted(given) if name not in own or own[name] != given[name])
