"""Where the time of a vision tower goes on a CPU, by parts: native without unread layers, and pruned.

    python benchmarks/profile_tower.py llava-video-7b --frames 2 --keep 64 \
        --output benchmarks/results/bench/profile_siglip_float32.json

Modules and functions are wrapped by a clock that counts the self time of each part: what runs inside another part is
taken out of it. Processor time of one thread; arms are interleaved, and figures are medians over the repeats.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from evoprune import EvoPrune
from evoprune.bench import build, manifest, presets
from evoprune.bench.arms import Arm, Live
from evoprune.bench.inputs import Maker, Shape

PROJECTIONS, ATTENTION, MLP, NORM, OTHER = "qkv and out projections", "attention", "MLP", "norms", "other"
ONE_PASS = "attention and what is received, one pass"
RECEIVED, GRAM, DENSITY, MATCHING, MERGE = "attention received", "Gram matrix", "density", "matching", "merge"
PARTS = (PROJECTIONS, ATTENTION, ONE_PASS, RECEIVED, MLP, NORM, GRAM, DENSITY, MATCHING, MERGE, OTHER)
FUNCTIONS = {
    "attend": ONE_PASS,
    "received_attention": RECEIVED,
    "cosines": GRAM,
    "distinctiveness": DENSITY,
    "match": MATCHING,
    "merge": MERGE,
    "update_sources": MERGE,
}
"""Functions of `evoprune.ops`, and the part that each belongs to."""


class SelfTime:
    """Seconds of each part, without those of the parts that run inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[list[Any]] = []

    def begin(self, part: str) -> None:
        self._open.append([part, time.process_time(), 0.0])

    def end(self) -> None:
        part, start, inner = self._open.pop()
        spent = time.process_time() - start
        self.seconds[part] += spent - inner
        if self._open:
            self._open[-1][2] += spent

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return timed

    def watch(self, live: Live, stack: ExitStack) -> None:
        """Wrap the parts of one arm until `stack` closes."""
        family = live.family
        spec = family.block
        self._module(family.tower, OTHER, stack)
        for block in family.blocks:
            self._module(getattr(block, spec.mlp), MLP, stack)
            for module in getattr(block, spec.attn).modules():
                if isinstance(module, torch.nn.Linear):
                    self._module(module, PROJECTIONS, stack)
            for module in block.modules():
                if "Norm" in type(module).__name__:
                    self._module(module, NORM, stack)
        self._everywhere("scaled_dot_product_attention", torch.nn.functional, ATTENTION, stack)
        ops = sys.modules["evoprune.ops"]
        for name, part in FUNCTIONS.items():
            if hasattr(ops, name):
                self._everywhere(name, ops, part, stack)

    def _module(self, module: torch.nn.Module, part: str, stack: ExitStack) -> None:
        # Behind the hooks of evoprune, whose work before a norm is not the norm's.
        before = module.register_forward_pre_hook(lambda *_: self.begin(part))
        after = module.register_forward_hook(lambda *_: self.end())
        stack.callback(before.remove)
        stack.callback(after.remove)

    def _everywhere(self, name: str, home: Any, part: str, stack: ExitStack) -> None:
        """Replace a function where it is defined and wherever evoprune has imported it."""
        function = getattr(home, name)
        wrapped = self.around(part, function)
        places = [home, *(m for n, m in list(sys.modules.items()) if n.startswith("evoprune.") and m is not home)]
        for place in places:
            if place.__dict__.get(name) is function:
                setattr(place, name, wrapped)
                stack.callback(setattr, place, name, function)


@torch.no_grad()
def profile(live: Live, run: Callable[[Any], Any]) -> dict[str, float]:
    """Return the seconds of each part of one run of the tower."""
    clock = SelfTime()
    with live.path(), ExitStack() as stack:
        clock.watch(live, stack)
        run(live.model)
    return dict(clock.seconds)


def main(
    model: Annotated[str, typer.Argument(help="A preset of `evoprune bench`.")] = "llava-video-7b",
    keep: Annotated[int, typer.Option(help="Tokens that stay of each picture or frame.")] = 64,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a video; a picture without.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
) -> None:
    """Profile both arms, print their parts and write the JSON."""
    torch.set_num_threads(1)
    preset = presets.get(model)
    whole = build.build(preset, "encoder", dtype=getattr(torch, dtype))
    arms = [Arm("native-read", "native-read", EvoPrune(keep=1.0)), Arm(f"evoprune {keep}", "pruned", EvoPrune(keep))]
    lives = [Live(arm, whole, {}) for arm in arms]
    maker = Maker(lives[0].family, *build.processors(preset), size=preset.picture, prompt=preset.prompt)
    shape = Shape(None, frames) if frames else Shape(1)
    pixels = maker.preprocess(maker.raw(shape, 0), whole.device, whole.dtype)
    runs: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for number in range(repeats + 1):
        for live in lives:
            found = profile(live, lambda one: maker.features(one, shape, pixels))
            if number:  # the first warms up
                runs[live.arm.name].append(found)
    title = f"{model}, tower, {shape}, {dtype}, one thread, median of {repeats} runs"
    facts = manifest(dtype=dtype, seed=0)
    parts = {name: table(found) for name, found in runs.items()}
    data = {"format": "evoprune.profile/1", "manifest": facts, "model": title, "arms": parts}
    for name, rows in parts.items():
        print(f"{name}: " + ", ".join(f"{row['part']} {row['seconds']:.3f} s ({row['share']:.1%})" for row in rows))
    if output is not None:
        output.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def table(runs: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return median seconds and share of each part that took any time."""
    found = {part: median(run.get(part, 0.0) for run in runs) for part in PARTS}
    total = sum(found.values())
    return [{"part": part, "seconds": s, "share": s / total} for part, s in found.items() if s]


if __name__ == "__main__":
    typer.run(main)
