"""Every method at equal shares of tokens on the embedded image benchmark: accuracy, then time, in one command.

    python benchmarks/rivals.py

Answers come through the processor and ``generate``, as a user's would, for all methods alike. What a result has stays,
unless --force is given: it is continued where it was cut short, or with more scenes. Times are processor time on one
thread, of all methods and the unpruned model interleaved in one run of `evoprune.bench`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

import evoprune
from evoprune import tiny
from evoprune.bench import arms, manifest
from evoprune.bench.calls import Caller
from evoprune.bench.inputs import Maker, Shape
from evoprune.bench.measure import Rounds, measure
from evoprune.bench.run import settle
from evoprune.models import find
from evoprune.pruners import METHODS, Pruner, get
from evoprune.tiny import benchmark

RESULTS = Path(__file__).parent / "results" / "rivals.json"
FORMAT = "evoprune.rivals/1"
SEEDS = (0, 1, 2)  # of random, whose accuracy is the mean
STAGES = ("pre_llm", "prefill", "ttft")
PICTURE = (480, 640)  # height and width of what is timed


def settings_of(method: str) -> dict[str, Any]:
    """What a method needs beside its defaults on the embedded model."""
    recipes = Path(tiny.__file__).parent / "recipes.json"
    return {"cdpruner": {"text_tower": "embeddings"}, "fitprune": {"recipe": str(recipes)}}.get(method, {})


@dataclass(frozen=True)
class Cell:
    """One run of the benchmark; `seed` is None but for random."""

    method: str
    keep: float
    positions: str
    seed: int | None = None

    @property
    def key(self) -> str:
        """Name of the cell, stable over runs."""
        return f"{self.method} {self.keep:g} {self.positions}" + ("" if self.seed is None else f" seed {self.seed}")

    def pruner(self) -> Pruner:
        """The method with its settings."""
        settings = settings_of(self.method) | ({} if self.seed is None else {"seed": self.seed})
        return get(self.method)(self.keep, positions=self.positions, **settings)  # type: ignore[arg-type]


def cells(methods: list[str], keeps: list[float], positions: list[str]) -> Iterator[Cell]:
    """Every cell; the decoder stage, whose survivors stay where they are, once."""
    for place in positions:
        for keep in keeps:
            for method in methods:
                if get(method).stage == "decoder" and place != positions[0]:
                    continue
                for seed in SEEDS if method == "random" else (None,):
                    yield Cell(method, keep, place, seed)


def answer(
    model: Any, processor: Any, pruner: Pruner | None, scenes: int, found: dict[str, Any], advance: Any
) -> dict[str, Any]:
    """Go on with a cell: which answers are right, as a hexadecimal bit string, and true token counts; or an error."""
    asked, begin, handle = benchmark.examples("test", scenes), time.process_time(), None
    if pruner is not None:
        try:
            handle = evoprune.apply(model, pruner, processor)
        except ValueError as error:
            return {"error": str(error)}
    right = list(bits(found)) if found else []
    with handle or nullcontext():
        for said in benchmark.answers(model, processor, "test", asked[len(right) :]):
            right.append(said == asked[len(right)].answer)
            advance(len(right))
        facts: dict[str, Any] = {}
        if handle is not None:
            inside = handle.stats.decoder_tokens
            facts = {"tokens": handle.stats.visual_tokens[0], "layers": list(inside[0]) if inside else []}
    return facts | {
        "accuracy": float(np.mean(right)),
        "questions": len(right),
        "right": np.packbits(right).tobytes().hex(),
        "cpu_seconds": found.get("cpu_seconds", 0.0) + time.process_time() - begin,
    }


def bits(cell: Mapping[str, Any]) -> np.ndarray:
    """bool (n,): which answers of a cell are right."""
    packed = np.frombuffer(bytes.fromhex(cell["right"]), dtype=np.uint8)
    return np.unpackbits(packed)[: cell["questions"]].astype(bool)


def times(model: Any, processor: Any, pruners: list[Pruner], batch: int, rounds: Rounds, advance: Any) -> Any:
    """Processor time and FLOPs of each stage, of every method and the model without it, interleaved."""
    maker = Maker(find(model), processor.image_processor, None, size=PICTURE)
    caller = Caller(maker, Shape(1, batch=batch), "all", model.device, model.dtype, decode=0)
    found = measure(arms.make(pruners), settle(model), caller, rounds, {}, advance)
    brief = [
        {name: arm.get(name) for name in ("name", "kind", "pruner", "error", "flops", "decoder_tokens")}
        | {"cpu_seconds": {stage: _brief(arm, stage) for stage in STAGES if not arm["error"]}}
        for arm in found
    ]
    return {"batch": batch, "repeats": rounds.repeats, "prompt_tokens": maker.prompt, "arms": brief}


def _brief(arm: Mapping[str, Any], stage: str) -> dict[str, float]:
    return {name: arm["cpu_seconds"][stage][name] for name in ("median", "p10", "p90")}


def kept(path: Path, scenes: int, force: bool) -> dict[str, Any]:
    """The finished part of a result, of as many scenes or fewer."""
    if force or not path.exists():
        return {"format": FORMAT, "scenes": scenes, "cells": {}, "times": None}
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT or found["scenes"] > scenes:
        raise typer.BadParameter(
            f"{path} holds {found.get('scenes')} scenes, more than {scenes}: give them, or --force"
        )
    return {**found, "scenes": scenes}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the result in one step."""
    facts = manifest(scenes=result["scenes"], seed=benchmark.SEED, dtype="float32")
    other = path.with_suffix(".part")
    other.write_text(json.dumps({**result, "manifest": facts}, indent=1) + "\n", encoding="utf-8")
    os.replace(other, path)


def main(
    output: Annotated[Path, typer.Option(help="Where the JSON goes; what it has already is kept.")] = RESULTS,
    methods: Annotated[str, typer.Option(help="With commas between; all by default.")] = ",".join(METHODS),
    keeps: Annotated[str, typer.Option(help="Shares of the tokens.")] = "0.5,0.25,0.125,0.0625",
    positions: Annotated[str, typer.Option(help="'original', 'contiguous' or both.")] = "original",
    scenes: Annotated[int, typer.Option(help="Scenes of the test split.")] = benchmark.SCENES,
    batch: Annotated[int, typer.Option(help="Prompts a timed call.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed rounds; 0 measures no time.")] = 9,
    force: Annotated[bool, typer.Option("--force", help="Measure finished cells anew.")] = False,
) -> None:
    """Measure every cell that the result does not have, then the times."""
    torch.set_num_threads(1)
    model, processor = tiny.load()
    result = kept(output, scenes, force)
    wanted = list(cells(methods.split(","), [float(k) for k in keeps.split(",")], positions.split(",")))
    done, asked = result["cells"], len(benchmark.examples("test", scenes))
    todo: dict[str, Cell | None] = {"unpruned": None} | {cell.key: cell for cell in wanted}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("cells", total=len(todo) * asked)
        for number, (key, cell) in enumerate(todo.items()):
            progress.update(task, description=key, completed=number * asked)
            have = done.get(key, {})
            if "error" not in have and have.get("questions", 0) < asked:
                pruner = None if cell is None else cell.pruner()
                facts = {} if cell is None else {name: getattr(cell, name) for name in ("method", "keep", "positions")}

                def advance(n: int, before: int = number * asked) -> None:
                    progress.update(task, completed=before + n)

                done[key] = facts | answer(model, processor, pruner, scenes, have, advance)
                write(output, result)
        progress.update(task, completed=len(todo) * asked)
        if repeats and (force or result["times"] is None):
            timed = [c.pruner() for c in wanted if c.positions == wanted[0].positions and not c.seed]
            rounds = Rounds(repeats, warmup=0, selection=0)
            bar = progress.add_task("times", total=rounds.total * (len(timed) + 2))
            result["times"] = times(
                model, processor, timed, batch, rounds, lambda what: progress.update(bar, advance=1)
            )
            write(output, result)


if __name__ == "__main__":
    typer.run(main)
