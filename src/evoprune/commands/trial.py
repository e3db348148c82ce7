"""One set of questions answered with and without pruning in turn, with times, counts and source maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..apply import apply
from ..pruners import Pruner
from ..video import Clip
from . import cost
from .answer import generate, prepare, visual_tokens
from .device import timed
from .errors import refused

LONGEST_ANSWER = 2  # tokens: one word and the end


@dataclass(frozen=True)
class Asked:
    """A picture or clip, what it shows the digits on, a question about it and the right answer."""

    ground: str
    seen: Image.Image | Clip
    question: str
    right: str


@dataclass(frozen=True)
class Trial:
    """What `compare` found; pairs are (unpruned, pruned).

    Attributes
    ----------
    unpruned, pruned
        The answers.
    kind
        What is asked about: "picture" or "clip".
    visual_tokens
        A picture's or clip's, in the language model.
    tokens
        Patch tokens of a picture or frame that leave each layer of the pruned tower.
    flops
        Of the tower's layers for one picture or clip: unpruned layers in use, model as shipped, pruned.
    milliseconds
        Medians: ``"tower"`` is the features, projector included; ``"answer"`` is generate.
    positions, sources
        int64 (I, K) raster indices of the survivors, and (I, N) the survivor of each patch; a row a picture or frame.
    """

    asked: tuple[Asked, ...]
    pruner: Pruner
    kind: str
    unpruned: tuple[str, ...]
    pruned: tuple[str, ...]
    visual_tokens: tuple[int, int]
    tokens: tuple[int, ...]
    flops: tuple[int, int, int]
    milliseconds: dict[str, tuple[float, float]]
    runs: int
    device: str
    positions: np.ndarray
    sources: np.ndarray

    @property
    def flop_ratios(self) -> tuple[float, float]:
        """FLOPs of the pruned tower relative to the layers in use, and to the model as shipped."""
        read, shipped, pruned = self.flops
        return pruned / read, pruned / shipped

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps as plain JSON values."""
        pair = ("unpruned", "pruned")
        rows = [
            {"ground": a.ground, "question": a.question, "right": a.right, "unpruned": plain, "pruned": pruned}
            for a, plain, pruned in zip(self.asked, self.unpruned, self.pruned, strict=True)
        ]
        return {
            "method": self.pruner.to_dict(),
            "questions": rows,
            "right_answers": {side: sum(row[side] == row["right"] for row in rows) for side in pair},
            f"visual_tokens_per_{self.kind}": dict(zip(pair, self.visual_tokens, strict=True)),
            "tokens_after_each_layer": list(self.tokens),
            f"tower_flops_per_{self.kind}": dict(zip(("layers_read", "as_shipped", "pruned"), self.flops, strict=True)),
            "tower_flop_ratio": dict(zip(("to_layers_read", "to_model_as_shipped"), self.flop_ratios, strict=True)),
            "milliseconds": {stage: dict(zip(pair, both, strict=True)) for stage, both in self.milliseconds.items()},
            "time_ratio": {stage: after / before for stage, (before, after) in self.milliseconds.items()},
            "timing": {"runs": self.runs, "statistic": "median", "batch": len(rows), "device": self.device},
        }


def compare(
    model: Any, processor: Any, asked: Sequence[Asked], pruner: Pruner, runs: int, advance: Callable[[], None]
) -> Trial:
    """Answer all questions in one batch, unpruned and pruned in turn, `runs` times after a warm-up of each.

    Raises
    ------
    UserError
        The model cannot give the pruner's counts.
    """
    device: torch.device = model.device
    pictures = [[one.seen] if isinstance(one.seen, Image.Image) else [] for one in asked]
    clips = [[one.seen] if isinstance(one.seen, Clip) else [] for one in asked]
    inputs = prepare(processor, [one.question for one in asked], pictures, device, clips)
    times: dict[str, list[tuple[float, float]]] = {"tower": [], "answer": []}
    for number in range(runs + 1):
        plain, *before = _once(model, processor, inputs, device)
        with refused(ValueError):
            handle = apply(model, pruner)
        with handle:
            pruned, *after = _once(model, processor, inputs, device)
        if number:
            for stage, pair in zip(times, zip(before, after, strict=True), strict=True):
                times[stage].append(pair)
            advance()
    stats = handle.stats
    full = cost.unpruned(model, stats)
    positions, sources = stats.positions, stats.sources
    if not isinstance(positions, torch.Tensor) or not isinstance(sources, torch.Tensor):
        raise RuntimeError("the last run left no source map of one size behind")
    return Trial(
        asked=tuple(asked),
        pruner=pruner,
        kind="clip" if any(clips) else "picture",
        unpruned=tuple(plain),
        pruned=tuple(pruned),
        visual_tokens=(visual_tokens(model, inputs) // len(asked), stats.visual_tokens[0]),
        tokens=stats.tokens,
        flops=(full.read // len(asked), full.shipped // len(asked), stats.flops // len(asked)),
        milliseconds={
            stage: (median(p[0] for p in pairs), median(p[1] for p in pairs)) for stage, pairs in times.items()
        },
        runs=runs,
        device=str(device),
        positions=positions.cpu().numpy(),
        sources=sources.cpu().numpy(),
    )


@torch.no_grad()
def _once(model: Any, processor: Any, inputs: Any, device: torch.device) -> tuple[list[str], float, float]:
    _, tower = timed(lambda: _features(model, inputs), device)
    said, answer = timed(lambda: generate(model, processor, inputs, LONGEST_ANSWER), device)
    return said, tower, answer


def _features(model: Any, inputs: Any) -> Any:
    if "pixel_values_videos" in inputs:
        return model.get_video_features(inputs["pixel_values_videos"])  # transformers has renamed the argument once
    return model.get_image_features(pixel_values=inputs["pixel_values"])
