"""A table of EvoPrune's paper from our results: our numbers, the paper's below them, and the differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import numbers as printed
from .cells import Line, cells, embedded, lines
from .matches import entry_of, remarks
from .notes import cautions, columns, origins, timed
from .tables import TABLES, Table, find
from .values import AVERAGES, LATENCIES, SECONDS, SHARE, ours, theirs, within

__all__ = ["TABLES", "Rendered", "cells", "find", "lines", "render"]

MISSING = "not measured"


@dataclass(frozen=True)
class Rendered:
    """A table as text: `rows` under `headings`, then `notes`; `values` are the numbers of the rows, unrounded."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    values: tuple[dict[str, Any], ...]

    def markdown(self) -> str:
        """Return title, table and notes in Markdown."""
        lines = [f"**{self.title}**", "", f"| {' | '.join(self.headings)} |", "|---" * len(self.headings) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])


def render(
    table: str, summary: Mapping[str, Any], latency: Mapping[str, Any] | None = None, *, model: str | None = None
) -> Rendered:
    """Return one of the paper's tables from a folder's summary and times.

    Each arm has a line of ours and, where the paper has one, a line of the paper's and one of the differences (ours
    minus theirs, in the units of the column). On an embedded model nothing is subtracted: another model on another
    task is no repetition, and only the shares of time and accuracy are of the same kind.

    Parameters
    ----------
    summary
        Of `summary.summarise`.
    latency
        Of `latency.load`.
    model
        That was evaluated; None is what the summary's configuration says, or the paper's.

    Raises
    ------
    ValueError
        There is no such table.
    """
    one = find(table)
    model = model or summary.get("configuration", {}).get("model")
    task = embedded(model)
    headings = _headings(one, task)
    clock = timed(one, task, latency)
    listed = lines(table, model if task else None)
    values, refused = _values(one, listed, summary, clock, task, headings)
    rows = tuple(_text(one, row, headings, task) for row in values)
    notes = (
        *origins(one, model, task, latency),
        *([] if task else columns(one)),
        *cautions(one, task, summary),
        *remarks(summary, listed),
        *printed.NOTES[table],
        *refused,
    )
    return Rendered(one.title, ("arm", "kept", "line", *headings), rows, notes, tuple(values))


def _values(
    one: Table,
    listed: Sequence[Line],
    summary: Mapping[str, Any],
    clock: Mapping[str, Any] | None,
    task: str | None,
    headings: Sequence[str],
) -> tuple[list[dict[str, Any]], list[str]]:
    """The numbers of all lines, ours, the paper's and the differences, and which arms were refused."""
    full = ours(one, listed[0], summary, clock, task, None)
    values: list[dict[str, Any]] = []
    refused: list[str] = []
    seen: set[str] = set()
    for line in listed:
        name = _name(line)
        if name in seen:  # the other seeds of random
            continue
        seen.add(name)
        entries = [entry_of(summary, task_name, line) for task_name in summary["tasks"]]
        errors = [entry["error"] for entry in entries if entry and entry["error"]]
        refused += [f"{name} was refused: {errors[0]}" for _ in errors[:1]]
        mine = ours(one, line, summary, clock, task, full)
        values.append({"arm": line.arm.name, "keep": line.arm.keep, "line": "ours", **mine})
        paper = theirs(one, line.key)
        if paper is not None and line.key is not None:
            values.append({"arm": line.arm.name, "keep": line.key[1], "line": "paper", **paper})
            if task is None:
                gaps = {name: _minus(mine.get(name), paper.get(name)) for name in headings if name != SECONDS}
                near = [
                    name for name, gap in gaps.items() if gap is not None and _near(one, name, line, summary, paper)
                ]
                values.append({"arm": line.arm.name, "keep": None, "line": "difference", **gaps, "within": near})
    return values, refused


def _name(line: Line) -> str:
    return line.arm.name if line.arm.keep is None else f"{line.arm.name} {line.arm.keep}"


def _headings(table: Table, task: str | None) -> tuple[str, ...]:
    if table.name == "fig4":
        rest: tuple[str, ...] = (SECONDS, SHARE, *LATENCIES, "mean", "mean of ratios")
    else:
        rest = (*LATENCIES, *AVERAGES)
    return (*([] if task is None else [task]), *(column.name for column in table.columns), *rest)


def _near(table: Table, name: str, line: Line, summary: Mapping[str, Any], paper: Mapping[str, float | None]) -> bool:
    column, value = next((one for one in table.columns if one.name == name), None), paper.get(name)
    return column is not None and value is not None and within(summary, column, line, value)


def _minus(mine: float | None, theirs: float | None) -> float | None:
    return None if mine is None or theirs is None else mine - theirs


def _text(table: Table, row: Mapping[str, Any], headings: Sequence[str], task: str | None) -> tuple[str, ...]:
    line = row["line"]
    cells = []
    for name in headings:
        value = row.get(name)
        foreign = line == "ours" and task is not None and (name == "Acc." or name in _names(table))
        if value is None:
            cells.append(MISSING if line == "ours" and not foreign else "")
        else:
            near = " ~" if name in row.get("within", ()) else ""
            cells.append(f"{value:{'+' if line == 'difference' else ''}.{_digits(name, table.name)}f}{near}")
    first = line == "ours"
    kept = "" if row["keep"] is None else str(row["keep"])
    return (row["arm"] if first else "", kept, line, *cells)


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _digits(name: str, table: str) -> int:
    """As many digits as the paper prints."""
    if name == "MME":
        return 0
    return 3 if name == SECONDS else 2 if table == "fig4" or name in (*LATENCIES, SHARE) else 1
