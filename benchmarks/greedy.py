"""Greedy selection of a whole batch against the same description written straight down, image by image, on a CPU.

    python benchmarks/greedy.py --output benchmarks/results/greedy.json

Both arms run interleaved in one process on one thread. The table tells which share of the tokens both pick: all,
but where rounding decides a near tie, which in VisPruner changes the pairs of every later round. CPU seconds leave out
what else runs on the machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from evoprune.bench import manifest
from evoprune.ops.selection import max_min_diversity
from evoprune.pruners.vispruner import important_and_diverse


def divprune_by_image(features: Tensor, keep: int) -> Tensor:
    """Each image by itself: the matrix of distances, then the farthest token from those chosen, again and again."""
    chosen = []
    for image in features:
        unit = image / image.norm(dim=-1, keepdim=True)
        distance = 1.0 - unit @ unit.T
        # The smallest distance of each token is its own, to itself.
        picks = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]
        while len(picks) < keep:
            nearest = distance[picks].amin(0)
            nearest[picks] = -1.0
            picks.append(int(nearest.argmax()))
        chosen.append(torch.tensor(picks))
    return torch.stack(chosen)


def vispruner_by_image(features: Tensor, keep: int) -> Tensor:
    """Each image by itself: half by attention, the others by taking out eight near duplicates at a time."""
    chosen = []
    for image, scores in zip(features, importance(features), strict=True):
        unit = image / image.norm(dim=-1, keepdim=True)
        order = scores.argsort(descending=True, stable=True)
        rest = order[keep // 2 :]
        while len(rest) > keep - keep // 2:
            a, b = rest[0::2], rest[1::2]
            closest = (unit[a] @ unit[b].T).amax(1).argsort(descending=True, stable=True)
            gone = min(8, len(rest) - (keep - keep // 2), len(a))
            rest = torch.cat((a[closest[gone:]], b))
        chosen.append(torch.cat((order[: keep // 2], rest)))
    return torch.stack(chosen)


def vispruner_batched(features: Tensor, keep: int) -> Tensor:
    """The same of the whole batch."""
    return torch.cat(important_and_diverse(features, importance(features), keep, 0.5, 8), dim=1)


def importance(features: Tensor) -> Tensor:
    """Stand in for the attention received: any scores (B, N) will do."""
    return features[..., 0]


METHODS: dict[str, dict[str, Callable[[Tensor, int], Tensor]]] = {
    "divprune": {"batched": max_min_diversity, "by image": divprune_by_image},
    "vispruner": {"batched": vispruner_batched, "by image": vispruner_by_image},
}


def measure(arms: dict[str, Callable[[Tensor, int], Tensor]], features: Tensor, keep: int, repeats: int) -> Any:
    """Return the seconds of each arm, and the share of its picks that the first has too."""
    wanted = next(iter(arms.values()))(features, keep)
    found: dict[str, Any] = {name: {"all": [], "cpu_all": []} for name in arms}
    for name, arm in arms.items():
        found[name]["shared_picks"] = _shared(arm(features, keep), wanted)
    for _ in range(repeats):
        for name, arm in arms.items():
            start, cpu = time.perf_counter(), time.process_time()
            arm(features, keep)
            found[name]["all"].append(time.perf_counter() - start)
            found[name]["cpu_all"].append(time.process_time() - cpu)
    for one in found.values():
        one["seconds"], one["cpu_seconds"] = median(one["all"]), median(one["cpu_all"])
    return found


def _shared(picks: Tensor, wanted: Tensor) -> float:
    return float((picks.unsqueeze(2) == wanted.unsqueeze(1)).any(2).float().mean())


def main(
    output: Annotated[Path | None, typer.Option(help="Where to write the result as JSON.")] = None,
    batch: int = 8,
    tokens: int = 576,
    width: int = 4096,
    keep: int = 64,
    repeats: int = 9,
) -> None:
    """Measure every greedy method on random features."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(batch, tokens, width)
    table = Table(
        "method", "arm", "CPU seconds", "seconds", "shared picks", title=f"{keep} of {tokens} x {width}, {batch}"
    )
    result: dict[str, Any] = {"manifest": manifest(dtype="float32", seed=0), "batch": batch, "tokens": tokens}
    result |= {"width": width, "keep": keep, "repeats": repeats, "methods": {}}
    with torch.no_grad():
        for method, arms in METHODS.items():
            found = measure(arms, features, keep, repeats)
            first = found["batched"]
            for name, one in found.items():
                one["to_batched"] = one["cpu_seconds"] / first["cpu_seconds"]
                table.add_row(
                    method, name, f"{one['cpu_seconds']:.3f} ({one['to_batched']:.2f}x)", f"{one['seconds']:.3f}",
                    f"{one['shared_picks']:.3f}",
                )  # fmt: skip
            result["methods"][method] = found
    Console().print(table)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
