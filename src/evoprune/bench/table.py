"""Results in a terminal and as CSV; ratios and columns as in the tables 1 and 2 of the paper."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .columns import Column, columns, facts, notes
from .results import CLOCKS, STAGES, arms, bases, label, ratio, value

GAP = 2  # blanks between columns
RATIO = "ratio"  # what groups of ratios begin with
CSV = (
    "model", "stages", "dtype", "device", "images", "frames", "batch", "arm", "kind", "path", "encoder_mode",
    "attention", "kept", "visual_tokens", "stage", "seconds_median", "seconds_p10", "seconds_p90",
    "cpu_seconds_median", "flops", "memory_bytes", "time_to_native", "time_to_native_read", "flops_to_native",
    "flops_to_native_read", "error",
)  # fmt: skip


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the tables of `result`, one or several a cell, none wider than the console.

    Parameters
    ----------
    result
        What `results.load` returns.
    console
        Where to print; stdout by default.
    """
    console = console or Console(highlight=False)
    for cell in result["cells"]:
        console.print(f"\n[bold]{result['model']}[/bold], {label(cell)}, {result['stages']}", highlight=False)
        console.print(facts(result, cell), style="dim", highlight=False, markup=False)
        found = columns(result, cell)
        for group in packed(found, console.width) if found else ():
            console.print(_table(group))
        for line in notes(result, cell):
            console.print(line, style="dim", highlight=False, markup=False)


def packed(found: list[Column], width: int) -> list[list[Column]]:
    """Return the columns in as few tables as fit `width`: each has the arms in front and ratios to one base only.

    Times and ratios stand side by side where there is room for all of both.
    """
    names, rest = found[0], found[1:]
    ratios = list(dict.fromkeys(column.group for column in rest if column.group.startswith(RATIO)))
    fits = _wide([column for column in found if column.group not in ratios[1:]]) <= width
    tables = [[names]]
    for column in rest:
        last = tables[-1]
        begins = column.group.startswith(RATIO) and column.group != last[-1].group
        crowded = any(one.group.startswith(RATIO) for one in last) or not fits
        if (begins and crowded) or (len(last) > 1 and _wide([*last, column]) > width):
            tables.append([names])
        tables[-1].append(column)
    return tables


def _wide(found: list[Column]) -> int:
    return sum(max(len(column.heading), *(len(cell) for cell in column.cells)) + GAP for column in found)


def _table(found: list[Column]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), title_justify="left", title_style="italic")
    table.title = next((f"×: {column.group}" for column in found if column.group.startswith(RATIO)), None)
    for number, column in enumerate(found):
        table.add_column(column.heading, justify="right" if number else "left", no_wrap=True)
    for row in zip(*(column.cells for column in found), strict=True):
        table.add_row(*row)
    return table


def write_csv(result: dict[str, Any], path: str | Path) -> None:
    """Write `result` in long form: a row a cell, arm and stage; what was not measured stays empty."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV, lineterminator="\n")
        writer.writeheader()
        for cell, arm in arms(result):
            common = {key: result.get(key) for key in ("model", "stages", "dtype", "device")}
            common |= {key: cell.get(key) for key in ("images", "frames", "batch")}
            common |= {key: arm.get(key) for key in CSV if key in arm and key != "flops"} | {"arm": arm["name"]}
            for stage in _stages(arm):
                writer.writerow({**common, "stage": stage, **_figures(cell, arm, stage)})


def _stages(arm: dict[str, Any]) -> list[str]:
    """The stages that an arm has any figure of; one empty row for an arm that failed."""
    return [s for s in STAGES if any(value(arm, s, q) is not None for q in (*CLOCKS, "flops", "memory"))] or [""]  # type: ignore[arg-type]


def _figures(cell: dict[str, Any], arm: dict[str, Any], stage: str) -> dict[str, Any]:
    times = (arm.get("seconds") or {}).get(stage) or {}
    found = {f"seconds_{key}": times.get(key) for key in ("median", "p10", "p90")}
    found |= {"cpu_seconds_median": value(arm, stage, "cpu_seconds"), "flops": value(arm, stage, "flops")}
    found["memory_bytes"] = value(arm, stage, "memory")
    for kind, to in bases(cell).items():
        key = kind.replace("-", "_")
        found[f"time_to_{key}"] = ratio(arm, to, stage)
        found[f"flops_to_{key}"] = ratio(arm, to, stage, "flops")
    return found
