"""What the embedded video model can do: test accuracy by kind, its floors, and how it bears random dropping.

    python benchmarks/tiny_video.py            everything below but the runs with pruning
    python benchmarks/tiny_video.py --pruned   one run with `evoprune.apply`, added to the result file

The full run and the blind one come through the processor and ``generate``, as a user's would, as do those with pruning;
the others take the packed runner, whose agreement with ``generate`` is measured along. Floors: no clip (blind), every
kind's commonest answer, one frame alone, the middle one shown eight times, and a reader who sees the digits and colours
of one frame without error and guesses the rest. Writes benchmarks/results/tiny_video.json.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

import evoprune
from evoprune.bench import manifest
from evoprune.evaluate.statistics import paired
from evoprune.pruners import Pruner
from evoprune.tiny import video
from evoprune.tiny.benchmark import Result
from evoprune.tiny.pixels import Split
from evoprune.tiny.video import benchmark, packed
from evoprune.tiny.video.clips import FRAMES

RESULTS = Path(__file__).parent / "results" / "tiny_video.json"
SEEDS = (0, 1, 2)
SPLIT: Split = "test"


def row(right: np.ndarray, asked: tuple[Any, ...], reference: np.ndarray) -> dict[str, Any]:
    """Accuracy, its ratio to the full run's with a 95 % interval over clips, and accuracy by kind."""
    kinds = np.array([e.kind for e in asked])
    relative = paired(right, reference, np.array([e.scene for e in asked]))
    return {
        "accuracy": float(right.mean()),
        "relative": [relative.value, relative.low, relative.high],
        "by_kind": {kind: float(right[kinds == kind].mean()) for kind in benchmark.questions.KINDS},
    }


def runs() -> dict[str, dict[str, Any]]:
    """Name of each run that shows less, or more, than the model usually sees, and its settings for `packed.run`."""
    alone = {f"frame {number} alone": {"frames": [number]} for number in range(FRAMES)}
    half = {
        f"random 12 of 25 pooled tokens, seed {seed}, {name} positions": {
            "keep": 12,
            "seed": seed,
            "original": original,
        }
        for name, original in (("contiguous", False), ("original", True))
        for seed in SEEDS
    }
    return {
        **alone,
        "middle frame eight times": {"frames": [benchmark.MIDDLE] * FRAMES},
        **half,
        "all 100 whole patches": {"pooled": False},
        "random 50 of 100 whole patches, seed 0": {"pooled": False, "keep": 50},
        "random 25 of 100 whole patches, seed 0": {"pooled": False, "keep": 25},
    }


def guessers(asked: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Scores of those who do not use the model."""
    readers = {
        f"reader of frame {number}": benchmark.one_frame_reader(SPLIT, asked, number) for number in range(FRAMES)
    }
    return {"commonest answers": benchmark.constant(asked), **readers}


def measure(clips: int, model: Any, processor: Any) -> dict[str, Any]:
    """Run everything but pruning."""
    asked = benchmark.examples(SPLIT, clips)
    found: dict[str, Any] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("test split", total=(len(runs()) + 2) * len(asked))

        def native(frames: list[int] | None) -> Result:
            told = partial(progress.update, task)
            before = progress.tasks[0].completed
            return benchmark.run(
                model, processor, SPLIT, clips=clips, frames=frames, advance=lambda n: told(completed=before + n)
            )

        full = native(None)
        reference = full.right.astype(float)
        found["full"] = row(reference, asked, reference)
        found["blind"] = row(native([]).right.astype(float), asked, reference)
        projected = packed.read(model, processor, SPLIT, clips)
        fast = packed.run(model, processor, asked, projected)
        for name, settings in runs().items():
            result = packed.run(model, processor, asked, projected, **settings)
            found[name] = row(result.right.astype(float), asked, reference)
            progress.advance(task, len(asked))
    found |= {name: row(scores, asked, reference) for name, scores in guessers(asked).items()}
    return {
        "manifest": manifest(clips=clips, questions=len(asked), seed=benchmark.SEED, dtype="float32"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weight_bytes": (video.folder() / "model.safetensors").stat().st_size,
        "packed_agreement": sum(a == b for a, b in zip(fast.answers, full.answers, strict=True)) / len(asked),
        "full_right": "".join(str(int(r)) for r in reference),
        "runs": found,
    }


def main(
    clips: Annotated[int, typer.Option(help="Clips of the test split.")] = benchmark.CLIPS,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULTS,
    pruned: Annotated[bool, typer.Option(help="Only add a run with `evoprune.apply` to the file.")] = False,
    method: Annotated[str, typer.Option(help="With --pruned: name of the method.")] = "random",
    keep: Annotated[float, typer.Option(help="With --pruned: tokens kept a frame, a share up to 1.")] = 0.5,
    positions: Annotated[str, typer.Option(help="With --pruned: contiguous or original.")] = "contiguous",
) -> None:
    """Run the test split once for every run and write accuracies with intervals."""
    torch.set_num_threads(1)
    model, processor = video.load()
    if pruned:
        data = json.loads(output.read_text())
        asked = benchmark.examples(SPLIT, data["manifest"]["clips"])
        settings = {"method": method, "keep": keep if keep <= 1 else int(keep), "positions": positions}
        with evoprune.apply(model, Pruner.from_dict(settings)) as handle:
            said = tuple(benchmark.answers(model, processor, SPLIT, asked))
            tokens = handle.stats.visual_tokens[0]
        right = Result(asked, said).right.astype(float)
        name = f"apply: {method}, keep {settings['keep']}, {positions} positions"
        made = {"visual_tokens": tokens, "right": "".join(str(int(r)) for r in right), "manifest": manifest(**settings)}
        data["clip_of_question"] = [e.scene for e in asked]
        data["runs"][name] = made | row(right, asked, np.array([float(r) for r in data["full_right"]]))
    else:
        data = measure(clips, model, processor)
    output.write_text(json.dumps(data, indent=1) + "\n")
    for name, found in data["runs"].items():
        print(f"{name}: accuracy {found['accuracy']:.3f}, relative {found['relative'][0]:.3f}")


if __name__ == "__main__":
    typer.run(main)
