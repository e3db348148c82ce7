"""Uniform grid: every N/keep-th token in raster order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class UniformGrid(FeaturePruner):
    """Keeps the raster indices floor((i + 0.5) N / keep), i = 0 .. keep - 1."""

    name: ClassVar[str] = "grid"
    source: ClassVar[str] = "sanity baseline"
    summary: ClassVar[str] = "keeps features at even steps in raster order after the encoder"

    def select(self, view: FeatureView, keep: int) -> Tensor:
        batch, length = view.features.shape[:2]
        index = torch.arange(keep, device=view.features.device)
        # In integers: (2i + 1) N over 2 keep.
        places = torch.div((2 * index + 1) * length, 2 * keep, rounding_mode="floor")
        return places.expand(batch, keep)
