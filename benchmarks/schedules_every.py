"""Is it as good to merge at fewer layers? Schedules of equal budget on the embedded benchmark (dev split).

    python benchmarks/schedules_every.py          # results/schedules_every.json, and docs/choices.md from it

Fewer merging layers are fewer launches, which is what one picture on a GPU waits for (`benchmarks/launches.py`), but
each has to merge more at once, and at most half of what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import typer
from rich.console import Console
from rich.progress import track

import choices
import choices_report
from evoprune import schedules, tiny
from evoprune.bench import manifest
from evoprune.tiny import benchmark

SCHEDULES = ("skip", "skip:0", "every:3", "every:4", "every:6")
KEEPS = (98, *choices.KEEPS)  # of 196 tokens: 1/2, for those that reach no less, 1/4, 1/8, 1/16
POSITIONS = ("contiguous", "original")
RESULTS = choices.HERE / "results" / "schedules_every.json"


def cells() -> Iterator[choices.Cell]:
    """Every cell, those out of reach too."""
    for positions in POSITIONS:
        for keep in KEEPS:
            for schedule in SCHEDULES:
                changes = {"positions": positions, "schedule": schedule}
                yield choices.Cell("dev", choices.settings_of(changes, keep))


def measure(model: Any, processor: Any, cell: choices.Cell) -> dict[str, Any]:
    """One cell; where the schedule cannot reach the budget, the least that it reaches."""
    settings = cell.settings or {}
    least = schedules.smallest(choices_report.TOKENS, choices_report.LAYERS_READ, settings["schedule"])
    if settings["keep"] < least:
        return {"split": cell.split, "settings": settings, "least": least}
    return choices.measure(model, processor, cell)


def main() -> None:
    """Measure all cells in one process, and write the result and the page."""
    torch.set_num_threads(1)
    model, processor = tiny.load()
    shown = track(list(cells()), description="cells", console=Console(stderr=True))
    rows = [measure(model, processor, cell) for cell in shown]
    facts = manifest(model=tiny.folder().name, scenes=benchmark.SCENES, seed=benchmark.SEED, resamples=4000)
    RESULTS.write_text(json.dumps({"manifest": facts, "cells": rows}) + "\n")
    page = choices_report.page(json.loads((choices.HERE / "results" / "choices.json").read_text()))
    (choices.HERE.parent / "docs" / "choices.md").write_text(page)


if __name__ == "__main__":
    typer.run(main)
