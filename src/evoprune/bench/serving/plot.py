"""A picture of a result: requests a second, and time to the first token, over the number of clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..plot import pyplot, save
from .run import ALONE, NATIVE, PRUNED
from .table import rows

COLOURS = {NATIVE: ("#555555", "s"), PRUNED: ("#0072B2", "o"), ALONE: ("#009E73", "D")}


def draw(result: dict[str, Any], path: str | Path, title: str = "") -> None:
    """Write the picture; bars at the points are the range of the rounds.

    Raises
    ------
    ValueError
        Nothing was measured, matplotlib is missing, or the path ends in no kind of picture.
    """
    found = rows(result)
    if not found:
        raise ValueError("no server of this result was measured: there is nothing to draw")
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    for name, (colour, marker) in COLOURS.items():
        mine = [row for row in found if row["server"] == name]
        if not mine:
            continue
        at = [row["concurrency"] for row in mine]
        rates = [row["rate"] for row in mine]
        error = [[r["median"] - r["low"] for r in rates], [r["high"] - r["median"] for r in rates]]
        left.errorbar(
            at, [r["median"] for r in rates], error, label=name, color=colour, marker=marker, capsize=3, markersize=5
        )
        timed = [row for row in mine if row["ttft"]]
        for which, line in (("p50", "-"), ("p99", "--")):
            right.plot(
                [row["concurrency"] for row in timed], [row["ttft"][which] for row in timed], line, color=colour,
                marker=marker, label=f"{name}, {which}", markersize=5,
            )  # fmt: skip
    for axis, words in ((left, "requests/s"), (right, "time to the first token, s")):
        axis.set_xscale("log", base=2)
        axis.set_xticks(result["plan"]["concurrency"], [str(one) for one in result["plan"]["concurrency"]])
        axis.set_xlabel("clients at a time")
        axis.set_ylabel(words)
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.suptitle(title, fontsize=10)
    save(plt, figure, path)
