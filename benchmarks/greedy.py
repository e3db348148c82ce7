"""Every selection of a whole batch against the same description written straight down, image by image, on a CPU.

    python benchmarks/greedy.py

The other arm is tests/by_image.py. Both run interleaved in one process on one thread; processor time leaves out what
else runs on the machine. The table tells which share of the picks both make: all, but where rounding decides a near
tie, which in VisPruner changes the pairs of every later round. Methods that merge choose `keep` pairs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.selections import Shown, agreement, cases, library  # noqa: E402

from evoprune.bench import manifest  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "greedy.json"
READING = 0.02  # processor seconds of one reading: what is quicker is repeated until it takes as long


def measure(arms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Return the seconds of each arm, interleaved."""
    loops = {}
    for name, arm in arms.items():
        arm()
        start = time.process_time()
        arm()
        loops[name] = max(1, math.ceil(READING / max(time.process_time() - start, 1e-6)))
    found: dict[str, Any] = {name: {"all": [], "cpu_all": []} for name in arms}
    for turn in range(repeats):
        for name in list(arms)[:: 1 if turn % 2 else -1]:
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(loops[name]):
                arms[name]()
            found[name]["all"].append((time.perf_counter() - start) / loops[name])
            found[name]["cpu_all"].append((time.process_time() - cpu) / loops[name])
    for one in found.values():
        one["seconds"], one["cpu_seconds"] = median(one["all"]), median(one["cpu_all"])
    return found


def compare(name: str, shown: Shown, keep: int, repeats: int) -> dict[str, Any]:
    """Return what is written of one method."""
    pruner, case = cases()[name]
    arms = {"batched": lambda: library(pruner, shown, keep), "by image": lambda: case.plain(shown, keep)}
    found = measure(arms, repeats)
    ratio = found["by image"]["cpu_seconds"] / found["batched"]["cpu_seconds"]
    same = agreement(arms["batched"](), arms["by image"]())
    return {"pruner": pruner.to_dict(), "arms": found, "times_faster": ratio, "shared_picks": same}


def main(
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULTS,
    methods: Annotated[str | None, typer.Option(help="Only these, with commas between.")] = None,
    batch: int = 8,
    side: Annotated[int, typer.Option(help="Tokens a side of the square picture.")] = 24,
    width: int = 4096,
    keep: int = 64,
    repeats: int = 9,
) -> None:
    """Measure every selection on random features."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shown = Shown.draw(batch, side, width)
    names = list(cases()) if methods is None else methods.split(",")
    facts = manifest(dtype="float32", seed=0, batch=batch, tokens=side**2, width=width, keep=keep, repeats=repeats)
    result: dict[str, Any] = {"manifest": facts, "methods": {}}
    with torch.inference_mode():
        for name in track(names, description="selections", console=Console(stderr=True), transient=True):
            result["methods"][name] = compare(name, shown, keep, repeats)
    output.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("method", "batched ms", "by image ms", "times faster", "shared picks")
    for name, one in result["methods"].items():
        times = [f"{1000 * one['arms'][arm]['cpu_seconds']:.3f}" for arm in ("batched", "by image")]
        table.add_row(name, *times, f"{one['times_faster']:.2f}", f"{one['shared_picks']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
