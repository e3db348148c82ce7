"""Measure the defaults on the embedded benchmark and write ``docs/choices.md``.

    python benchmarks/choices.py run                  # every cell, resumable; --part 1/2 and --part 2/2 share the work
    python benchmarks/choices.py report               # results/choices.json and docs/choices.md from the finished cells

Settings are compared on the dev split only. The test split is read once, by the final table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track

import evoprune
from evoprune import tiny
from evoprune.bench import manifest
from evoprune.pruners import Pruner
from evoprune.tiny import benchmark, packed
from evoprune.tiny.pixels import Split

HERE = Path(__file__).parent
KEEPS = (49, 25, 12)  # of 196 tokens: 1/4, 1/8, 1/16
# Where the search begins: the paper's values and, where it gives none, the project's reading of it.
START: dict[str, Any] = {
    "method": "evoprune",
    "positions": "contiguous",
    "schedule": "skip",
    "critical_ratio": 0.25,
    "neighbors": 5,
    "bandwidth": None,
    "diversity": 1.0,
    "similarity": "cosine",
    "partition": "mergeable",
    "order": "raster",
    "weights": "size",
    "features": "hidden",
    "proportional_attention": False,
    "attention": True,
}
VARIATIONS: dict[str, list[dict[str, Any]]] = {
    "Neighbours K": [{"neighbors": k} for k in (1, 3, 10, 20)],
    "Diversity lambda_d": [{"diversity": d} for d in (0.0, 0.5, 2.0, 4.0)],
    "Bandwidth tau": [{"bandwidth": t} for t in (0.3, 0.6, 1.0)],
    "Critical ratio CTR": [{"critical_ratio": c} for c in (0.0, 0.1, 0.4, 0.5)],
    "Partition": [{"partition": "index"}],
    "Order": [{"order": "tome"}],
    "Merged value": [{"weights": "equal"}],
    "Proportional attention": [{"proportional_attention": True}],
    "Similarity": [{"similarity": "sigmoid"}, {"similarity": "softmax"}],
    "Features": [{"features": "keys"}],
    "Positions": [{"positions": "original"}],
    "Schedule": [
        {"schedule": s} for s in ("skip:0", "mean", "first:6", "last:6", "last:5", "increasing:1.0", "decreasing:1.0")
    ],
    "Ablation (Table 3)": [
        {"attention": False},
        {"diversity": 0.0},
        {"attention": False, "diversity": 0.0},
    ],
    "ToMe's scores": [
        {
            "features": "keys",
            "attention": False,
            "diversity": 0.0,
            "proportional_attention": True,
            "order": "tome",
        }
    ],
}
# The first round's winner, and on top of it whatever else was ahead in that round.
SECOND: dict[str, Any] = {"positions": "original"}
SECOND_ROUND: list[dict[str, Any]] = [
    SECOND | changes
    for changes in (
        {"order": "tome"},
        {"proportional_attention": True},
        {"weights": "equal"},
        {"diversity": 0.0},
        {"partition": "index"},
        {"critical_ratio": 0.0},
        {"schedule": "mean"},
        {"schedule": "skip:0"},
        {"schedule": "increasing:1.0"},
    )
]
# Half of the tokens merged in one layer alone: what is lost where.
HALF = 98
LAYERS: list[dict[str, Any]] = [
    {"schedule": [HALF if layer == here else 0 for layer in range(11)], "keep": HALF} for here in range(11)
]
SEEDS = (0, 1, 2)
BASELINES: dict[str, list[dict[str, Any]]] = {
    "random": [{"method": "random", "seed": s} for s in SEEDS],
    "random, original positions": [{"method": "random", "seed": s, "positions": "original"} for s in SEEDS],
    "grid": [{"method": "grid"}],
    "grid, original positions": [{"method": "grid", "positions": "original"}],
    "downsample": [{"method": "downsample"}],
}


@dataclass(frozen=True)
class Cell:
    """One run of the benchmark: a split and a pruner's settings, None for the unpruned model."""

    split: Split
    settings: dict[str, Any] | None

    @property
    def key(self) -> str:
        """Name of the cell, stable over runs."""
        return json.dumps([self.split, self.settings], sort_keys=True)


def settings_of(changes: dict[str, Any], keep: int) -> dict[str, Any]:
    """The full settings of a variation of START, or of a baseline."""
    return ({} if "method" in changes else START) | {"keep": keep} | changes


def chosen() -> dict[str, Any]:
    """The library's defaults as they are now."""
    defaults = evoprune.EvoPrune(1).to_dict()
    return {name: value for name, value in defaults.items() if name != "keep"}


def cells() -> Iterator[Cell]:
    """Every cell, each once."""
    groups: list[list[dict[str, Any]]] = [[{}], *VARIATIONS.values(), *BASELINES.values(), [chosen()]]
    shown: dict[Split, list[list[dict[str, Any]]]] = {
        "dev": [*groups, LAYERS, SECOND_ROUND],
        "test": [*BASELINES.values(), [chosen()], [{}], [SECOND]],  # what the final table shows, not the search
    }
    seen = set()
    for split, tables in shown.items():
        yield Cell(split, None)
        for changes in chain.from_iterable(tables):
            for keep in KEEPS:
                cell = Cell(split, settings_of(changes, keep))
                if cell.key not in seen:
                    seen.add(cell.key)
                    yield cell


@torch.no_grad()
def fate(model: Any, processor: Any, split: Split, handle: Any, scenes: int = 80) -> dict[str, float]:
    """What became of the digits' patches in the first scenes of a split.

    ``covered`` is the share of glyphs for which some survivor stands mostly on the glyph's own ink; ``mixed`` the share
    of survivors with ink that stand for ink of two glyphs.
    """
    drawn = [benchmark.picture(split, number) for number in range(scenes)]
    pixels = processor.image_processor([one.image() for one in drawn], return_tensors="pt")["pixel_values"]
    model.model.get_image_features(pixel_values=pixels, return_dict=True)
    covered = glyphs = mixed = inked = 0
    for one, sources in zip(drawn, handle.stats.sources.numpy(), strict=True):
        owner, count = one.owner.reshape(-1), len(one.glyphs)
        table = np.zeros((sources.max() + 1, count + 1), dtype=int)
        np.add.at(table, (sources[sources >= 0], owner[sources >= 0]), 1)  # the last column is background
        ink = table[:, :count]
        mostly = ink * 2 > table.sum(1, keepdims=True)
        covered += int(mostly.any(0).sum())
        glyphs += count
        mixed += int(((ink > 0).sum(1) > 1).sum())
        inked += int((ink > 0).any(1).sum())
    return {"covered": covered / glyphs, "mixed": mixed / max(1, inked)}


def measure(model: Any, processor: Any, cell: Cell) -> dict[str, Any]:
    """Run one cell; which answers are right, as a hexadecimal bit string, and the true token counts."""
    row: dict[str, Any] = {"split": cell.split, "settings": cell.settings}
    if cell.settings is None:
        result = packed.run(model, processor, cell.split)
    else:
        with evoprune.apply(model, Pruner.from_dict(cell.settings)) as handle:
            result = packed.run(model, processor, cell.split, handle=handle)
            row |= {"tokens": handle.stats.visual_tokens[0], "per_layer": list(handle.stats.tokens)}
            if cell.settings["method"] != "downsample":  # its patches are not those of the picture
                row |= fate(model, processor, cell.split, handle)
    return row | {"right": np.packbits(result.right).tobytes().hex()}


app = typer.Typer(help=__doc__, add_completion=False)
Folder = Annotated[Path, typer.Option(help="Folder of finished cells.")]


@app.command()
def run(
    folder: Folder = Path("runs/choices"),
    part: Annotated[str, typer.Option(help="k/n: every n-th cell.")] = "1/1",
) -> None:
    """Measure the cells that are not finished yet."""
    folder.mkdir(parents=True, exist_ok=True)
    number, parts = (int(word) for word in part.split("/"))
    torch.set_num_threads(1)
    model, processor = tiny.load()
    done = {json.dumps([c["split"], c["settings"]], sort_keys=True) for c in finished(folder)}
    todo = [cell for i, cell in enumerate(cells()) if i % parts == number - 1 and cell.key not in done]
    with (folder / f"cells-{number}-of-{parts}.jsonl").open("a") as out:
        for cell in track(todo, description="cells"):
            out.write(json.dumps(measure(model, processor, cell)) + "\n")
            out.flush()


def finished(folder: Path) -> list[dict[str, Any]]:
    """The finished cells of a folder; a line that a kill cut short is left out."""
    rows = []
    for path in sorted(folder.glob("cells-*.jsonl")):
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                rows.append(json.loads(line))
    return rows


@app.command()
def report(folder: Folder = Path("runs/choices")) -> None:
    """Write results/choices.json from the finished cells, and docs/choices.md from that file."""
    import choices_report

    facts = manifest(model=tiny.folder().name, scenes=benchmark.SCENES, seed=benchmark.SEED, resamples=4000)
    results = HERE / "results" / "choices.json"
    results.write_text(
        json.dumps({"manifest": facts, "start": START, "chosen": chosen(), "cells": finished(folder)}) + "\n"
    )
    page = choices_report.page(json.loads(results.read_text()))
    (HERE.parent / "docs" / "choices.md").write_text(page)


if __name__ == "__main__":
    app()
