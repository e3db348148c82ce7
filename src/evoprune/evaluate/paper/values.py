"""The numbers of one line of a paper's table: ours from summary and times, the paper's from its printed entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arms import FULL
from ..latency import times
from . import numbers as printed
from .cells import Line
from .matches import entry_of, measured
from .numbers import Key
from .tables import Column, Table

LATENCIES = ("pre-LLM", "LLM", "overall")
AVERAGES = ("Acc.", "Rel.", "mean", "mean of ratios")
SECONDS, SHARE = "encoding, s", "encoding, of unpruned"
SAME = 0.05  # points between a metric and the share of right answers that are rounding
Values = dict[str, float | None]


def ours(
    table: Table,
    line: Line,
    summary: Mapping[str, Any],
    latency: Mapping[str, Any] | None,
    task: str | None,
    full: Values | None,
) -> Values:
    """Our numbers of an arm, by heading; `full` are those of the unpruned model, itself where None."""
    found: Values = {column.name: _benchmark(summary, column, line) for column in table.columns}
    names = [column.name for column in table.columns if not column.kinds]
    if task is not None:
        entry = entry_of(summary, task, line)
        ran = entry is not None and entry["accuracy"] is not None
        found = {task: 100 * entry["accuracy"][0] if ran and entry else None}
        names = [task]
    arm = measured(summary, line)
    clock = latency if arm is not None else None
    arm = arm or line.arm
    found |= {name: times.ratio(clock, arm, name) for name in LATENCIES}
    found |= {SECONDS: times.value(clock, arm, "encoder"), SHARE: times.ratio(clock, arm, "encoder")}
    return found | _averages("" if task else table.name, [found[name] for name in names], full, names)


def theirs(table: Table, key: Key | None) -> Values | None:
    """The paper's numbers of a row, by heading, and the averages that it does not print, from those it does."""
    if key is None or key not in table.numbers:
        return None
    found: Values = dict(zip(printed.COLUMNS[table.name], table.numbers[key], strict=True))
    names = [column.name for column in table.columns if not column.kinds]
    native: Values = dict(zip(printed.COLUMNS[table.name], table.numbers.get((FULL, None), ()), strict=False))
    if native:
        averages = _averages(table.name, [found[name] for name in names], native, names)
        found |= {name: averages[name] for name in ("mean", "mean of ratios")}
    return found


def _benchmark(summary: Mapping[str, Any], column: Column, line: Line) -> float | None:
    """What a column holds of an arm, in the paper's units; None where any of its tasks is missing."""
    names = [name for name in summary["tasks"] if name == column.task or name.startswith(f"{column.task}_")]
    names = [column.task] if column.subtasks == 1 else [name for name in names if name != column.task]
    entries = [entry_of(summary, name, line) for name in names]
    if len(entries) != column.subtasks:
        return None
    found = [None if entry is None or entry["error"] else _score(entry, column) for entry in entries]
    known = [one for one in found if one is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def within(summary: Mapping[str, Any], column: Column, line: Line, value: float) -> bool:
    """Whether the 95 % interval of our accuracy holds a number of the paper's.

    Only where the harness's metric is the share of right answers, and the benchmark is one task.
    """
    entry = entry_of(summary, column.task, line) if column.subtasks == 1 and not column.kinds else None
    mine = None if entry is None or entry["error"] else _score(entry, column)
    if entry is None or mine is None or abs(mine - 100 * entry["accuracy"][0]) > SAME:
        return False
    _, low, high = entry["accuracy"]
    return bool(100 * low <= value <= 100 * high)


def _score(entry: Mapping[str, Any], column: Column) -> float | None:
    if column.kinds:
        parts = [part for kind, part in entry["kinds"].items() if kind.partition(":")[0] in column.kinds]
        asked = sum(n for _, n in parts)
        return 100 * sum(share * n for share, n in parts) / asked if asked else None
    if column.metric is None:
        return 100 * entry["accuracy"][0] if entry["accuracy"] else None
    named = {name.partition(",")[0]: value for name, value in entry["metrics"].items()}
    return column.scale * named[column.metric] if column.metric in named else None


def _averages(table: str, values: Sequence[float | None], full: Values | None, names: Sequence[str]) -> Values:
    """The four averages of a line's benchmarks; None where one of them is missing, here or of the unpruned model."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return dict.fromkeys(AVERAGES)
    found: Values = {"Acc.": printed.acc(table, known) if table else None, "mean": printed.mean(table, known)}
    base = known if full is None else [full[name] for name in names]
    if any(not one for one in base):
        return {**found, "Rel.": None, "mean of ratios": None}
    native = [one for one in base if one is not None]
    found["Rel."] = 100 * printed.acc(table, known) / printed.acc(table, native)
    found["mean of ratios"] = 100 * sum(a / b for a, b in zip(known, native, strict=True)) / len(known)
    return found
