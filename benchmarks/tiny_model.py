"""What the embedded model can do: test accuracy, the floor without a picture, and how it bears random dropping.

    python benchmarks/tiny_model.py

The unpruned answers come through the processor and ``generate``, as a user's would; the runs with dropped tokens take
the packed runner, whose agreement with ``generate`` is measured along. Writes benchmarks/results/tiny_model.json.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

import evoprune
from evoprune import tiny
from evoprune.bench import manifest
from evoprune.evaluate.statistics import paired
from evoprune.tiny import benchmark, packed

RESULTS = Path(__file__).parent / "results" / "tiny_model.json"
SEEDS = (0, 1, 2)


def runs() -> dict[str, dict[str, Any] | None]:
    """Name of each run and its pruner's settings."""
    half = {
        f"random half, seed {seed}, {positions} positions": {"keep": 0.5, "seed": seed, "positions": positions}
        for positions in ("contiguous", "original")
        for seed in SEEDS
    }
    return {"full": None, "blind": None, **half}


def main(
    scenes: Annotated[int, typer.Option(help="Scenes of the test split.")] = benchmark.SCENES,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULTS,
) -> None:
    """Run the test split once for every run and write accuracies with intervals."""
    torch.set_num_threads(1)
    model, processor = tiny.load()
    asked = benchmark.examples("test", scenes)
    found: dict[str, Any] = {}
    reference: benchmark.Result | None = None
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("test split", total=len(asked) * (len(runs()) + 1))

        def advance(done: int) -> None:
            progress.update(task, completed=advance.before + done)  # type: ignore[attr-defined]

        advance.before = 0  # type: ignore[attr-defined]
        for name, settings in runs().items():
            with ExitStack() as stack:
                if settings is None:
                    result = benchmark.run(
                        model, processor, "test", scenes=scenes, blind=name == "blind", advance=advance
                    )
                else:
                    handle = stack.enter_context(evoprune.apply(model, evoprune.Random(**settings)))
                    result = packed.run(model, processor, "test", scenes=scenes, handle=handle, advance=advance)
            reference = reference or result  # the full run comes first
            relative = paired(result.right, reference.right, np.array([e.scene for e in asked]))
            found[name] = {
                "accuracy": result.accuracy,
                "relative": [relative.value, relative.low, relative.high],
                "by_kind": result.by_kind(),
            }
            advance.before += len(asked)  # type: ignore[attr-defined]
        fast = packed.run(model, processor, "test", scenes=scenes, advance=advance)
    slow = reference or fast
    same = sum(a == b for a, b in zip(fast.answers, slow.answers, strict=True)) / len(asked)
    parameters = sum(p.numel() for p in model.parameters())
    weights = (tiny.folder() / "model.safetensors").stat().st_size
    facts = manifest(scenes=scenes, questions=len(asked), seed=benchmark.SEED, dtype="float32")
    data = {
        "manifest": facts,
        "parameters": parameters,
        "weight_bytes": weights,
        "packed_agreement": same,
        "runs": found,
    }
    output.write_text(json.dumps(data, indent=1) + "\n")
    for name, row in found.items():
        print(f"{name}: accuracy {row['accuracy']:.3f}, relative {row['relative'][0]:.3f}")


if __name__ == "__main__":
    typer.run(main)
