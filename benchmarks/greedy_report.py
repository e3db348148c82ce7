"""The table of selections, batched against image by image, from results/greedy.json and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evoprune.bench.columns import short


def selections(data: dict[str, Any]) -> Iterator[str]:
    """The table of selections: batched against image by image."""
    facts = data["manifest"]
    yield (
        f"{facts['keep']} of {facts['tokens']} tokens of {facts['width']} dimensions (of methods that merge,"
        f" {facts['keep']} pairs), batch {facts['batch']}: processor time on one thread, median of {facts['repeats']}"
        " interleaved readings."
    )
    yield from ("", "| method | batched, ms | by image, ms | times as fast | shared picks |", "|---|---|---|---|---|")
    for name, one in data["methods"].items():
        milliseconds = (short(1000 * one["arms"][arm]["cpu_seconds"]) for arm in ("batched", "by image"))
        yield f"| {name} | {' | '.join(milliseconds)} | {one['times_faster']:.2f} | {one['shared_picks']:.3f} |"
    slower = [f"`{name}`" for name, one in data["methods"].items() if one["times_faster"] < 1]
    if slower:
        yield from ("", f"Slower than image by image: {', '.join(slower)}.")
