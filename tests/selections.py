"""The same selection twice: as the model path calls it, for a whole batch, and written straight down, image by image.

`CASES` has one entry a method that selects; tests/test_by_image.py compares both, benchmarks/greedy.py measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from evoprune.pruners import (
    METHODS,
    DecoderPruner,
    DecoderView,
    EncoderPruner,
    FeaturePruner,
    FeatureView,
    LayerView,
    Pruner,
)

from . import by_image
from .by_image import batch as each

TEXT = 40  # tokens of the prompt that a method inside the language model sees


@dataclass(frozen=True)
class Shown:
    """Random inputs of a batch of square pictures: of each kind one tensor, of which every method reads its own."""

    features: Tensor
    keys: Tensor
    cls: Tensor
    text_keys: Tensor
    text_hidden: Tensor
    attention: Tensor
    scores: Tensor

    @classmethod
    def draw(cls, images: int, side: int, width: int) -> Shown:
        """Draw all of it from torch's generator."""
        tokens = side**2
        counts = {"features": tokens, "keys": tokens, "text_keys": TEXT, "text_hidden": TEXT}
        wide = {name: torch.randn(images, count, width) for name, count in counts.items()}
        return cls(
            **wide, cls=torch.randn(images, width), attention=torch.rand(images, tokens),
            scores=torch.rand(images, tokens),
        )  # fmt: skip

    def of(self, pruner: Pruner) -> Any:
        """Return the view that a pruner's adapter would show it."""
        images, tokens = self.attention.shape
        if isinstance(pruner, EncoderPruner):
            return LayerView(self.features, torch.ones(images, tokens), self.attention, self.keys)
        if isinstance(pruner, DecoderPruner):
            return DecoderView(
                attention=self.attention, cross=self.attention, within=self.scores, hidden=self.features,
                keys=self.keys, text_hidden=self.text_hidden, text_keys=self.text_keys,
                text_mask=torch.ones(images, TEXT, dtype=torch.bool),
            )  # fmt: skip
        side = round(tokens**0.5)
        return FeatureView(
            self.features, importance=self.attention, keys=self.keys, cls=self.cls, relevance=self.scores,
            owners=torch.arange(images), grid=(side, side),
        )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A method with settings, and the same by image: from what is shown and a number of tokens (or of pairs)."""

    plain: Callable[[Shown, int], Any]
    settings: dict[str, Any] = field(default_factory=dict)


def library(pruner: Pruner, shown: Shown, keep: int) -> Any:
    """Return the picks, (B, keep); pairs as (B, 2, merges); the tokens (B, keep, C) of a method that makes new ones."""
    view = shown.of(pruner)
    if isinstance(pruner, EncoderPruner):
        return torch.stack(pruner.match(view, keep)[:2], dim=1)
    if isinstance(pruner, DecoderPruner):
        return pruner.select(view, keep)
    assert isinstance(pruner, FeaturePruner)
    chosen = pruner.select(view, replace(pruner, keep=keep).tokens_after(view.features.shape[1]))
    makes_new = type(pruner).combine is not FeaturePruner.combine
    return pruner.combine(view.features, view, chosen) if makes_new else chosen


def agreement(ours: Tensor, plain: Tensor) -> float:
    """Return the share of picks, pairs or tokens that both have."""
    if ours.is_floating_point():
        return float(torch.isclose(ours, plain, rtol=1e-4, atol=1e-4).all(-1).float().mean())
    if ours.dim() == 3:  # pairs: one number each
        ours, plain = (pairs[:, 0] * 10**6 + pairs[:, 1] for pairs in (ours, plain))
    return float((ours.unsqueeze(2) == plain.unsqueeze(1)).any(2).float().mean())


CASES: dict[str, Case] = {
    "visionzip": Case(lambda s, keep: each(by_image.visionzip, s.features, s.attention, s.keys, s.cls, keep=keep)),
    "cdpruner": Case(
        lambda s, keep: each(by_image.cdpruner, s.features, s.scores, keep=keep), {"text_tower": "embeddings"}
    ),
    "idpruner": Case(lambda s, keep: each(by_image.idpruner, s.features, s.attention, keep=keep)),
    "fastv": Case(lambda s, keep: each(by_image.fastv, s.attention, keep=keep)),
    "dart": Case(lambda s, keep: each(by_image.dart, s.keys, s.features, s.text_keys, s.text_hidden, keep=keep)),
    "fitprune": Case(lambda s, keep: each(by_image.fitprune, s.attention, s.scores, keep=keep)),
    "random": Case(lambda s, keep: each(by_image.random, s.features, keep=keep)),
    "pool": Case(lambda s, keep: each(by_image.pool, s.features, keep=keep)),
    "first": Case(lambda s, keep: each(by_image.first, s.features, keep=keep)),
    "grid": Case(lambda s, keep: each(by_image.grid, s.features, keep=keep)),
    "fastervlm": Case(lambda s, keep: each(by_image.fastervlm, s.attention, keep=keep)),
    "vispruner": Case(lambda s, keep: each(by_image.vispruner, s.features, s.attention, keep=keep)),
    "divprune": Case(lambda s, keep: each(by_image.divprune, s.features, keep=keep)),
    "tome": Case(lambda s, merges: each(by_image.tome, s.keys, merges=merges)),
    "evoprune": Case(lambda s, merges: each(by_image.evoprune, s.features, s.attention, merges=merges)),
}
"""In the order of the registry; what has no selection to compare (a smaller picture) is left out."""


def cases() -> dict[str, tuple[Pruner, Case]]:
    """Return pruner and case of every method, in the registry's order."""
    return {
        name: (method(keep=1, **CASES[name].settings), CASES[name]) for name, method in METHODS.items() if name in CASES
    }
