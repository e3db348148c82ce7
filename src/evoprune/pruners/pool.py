"""Average pooling: the features become a coarser grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class AdaptivePool(FeaturePruner):
    """Averages the features over g x g cells of the picture, g = floor(sqrt(keep)).

    The true count is g * g, at most `keep`, and everything where `keep` is all. A cell that is no whole number of units
    wide shares its border with the next one, as in torch's `adaptive_avg_pool2d`; cells of oblong pictures are oblong.
    A pooled token stands where the unit under its cell's middle is. Where an encoder stage has merged before, and
    there is no grid any more, the survivors in raster order are averaged in g * g runs of equal length.
    """

    name: ClassVar[str] = "pool"
    source: ClassVar[str] = "sanity baseline"
    summary: ClassVar[str] = "averages the features over a coarser grid after the encoder"

    def tokens_after(self, n: int) -> int:
        kept = self.count(n)
        return n if kept == n else math.isqrt(kept) ** 2

    def select(self, view: FeatureView, keep: int) -> Tensor:
        (rows, columns), (few, narrow) = _grids(view, keep)
        down, along = (_middles(n, k, view.features.device) for n, k in ((rows, few), (columns, narrow)))
        return (down[:, None] * columns + along).flatten().expand(view.features.shape[0], keep)

    def standing(self, view: FeatureView, chosen: Tensor) -> Tensor:
        (rows, columns), (few, narrow) = _grids(view, chosen.shape[1])
        # The cell that a unit's own middle falls into.
        down, along = (_middles(k, n, chosen.device) for n, k in ((rows, few), (columns, narrow)))
        return (down[:, None] * narrow + along).flatten().expand(len(chosen), -1)

    def combine(self, units: Tensor, view: FeatureView, chosen: Tensor) -> Tensor:
        grid, cells = _grids(view, chosen.shape[1])
        planes = units.float().transpose(1, 2).unflatten(2, grid)
        return nn.functional.adaptive_avg_pool2d(planes, cells).flatten(2).transpose(1, 2).to(units.dtype)


def _grids(view: FeatureView, keep: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and columns of units and of cells; one row of each where there is no grid."""
    if view.grid is None:
        return (1, view.features.shape[1]), (1, keep)
    return view.grid, (math.isqrt(keep),) * 2


def _middles(units: int, cells: int, device: torch.device) -> Tensor:
    """Return for each of `cells` the one of `units` under its middle, int64 (cells,)."""
    return torch.div((2 * torch.arange(cells, device=device) + 1) * units, 2 * cells, rounding_mode="floor")
