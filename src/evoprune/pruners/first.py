"""Keep-first: the upper part of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class KeepFirst(FeaturePruner):
    """Keeps the first `keep` features in raster order, whatever they show."""

    name: ClassVar[str] = "first"
    source: ClassVar[str] = "sanity baseline"
    summary: ClassVar[str] = "keeps the first features in raster order after the encoder"

    def select(self, view: FeatureView, keep: int) -> Tensor:
        return torch.arange(keep, device=view.features.device).expand(view.features.shape[0], keep)
