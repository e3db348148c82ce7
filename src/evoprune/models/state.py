"""What one forward of the tower leaves behind: which tokens merged into which, and where survivors stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from .plan import Plan


class Run:
    """One forward of the tower over `images` pictures; the maps are computed only when they are read."""

    def __init__(self, plan: Plan, images: int = 0, device: torch.device | None = None):
        self.plan = plan
        self.images = images
        self.device = device
        self.sizes: Tensor | None = None  # (I, T) patches that each token stands for, None before the first merge
        self.matchings: list[Any] = []
        self.importance: Tensor | None = None  # (I, T) for the feature stage
        self.chosen: Tensor | None = None  # (I, K) picked by the feature stage

    def merged(self, matching: Any, sizes: Tensor) -> None:
        """Note one merge; attention received before it is added up over what merged."""
        order = self.plan.encoder.order if self.plan.encoder is not None else "raster"
        if self.importance is not None:
            images, tokens = self.importance.shape
            start = ops.initial_sources(images, tokens, self.importance.device)
            standing = ops.update_sources(start, matching, order)
            self.importance = torch.zeros_like(sizes).scatter_add(1, standing, self.importance)
        self.matchings.append(matching)
        self.sizes = sizes

    def positions(self) -> Tensor | None:
        """Return the original raster index of each survivor, int64 (I, K), None without pictures."""
        if not self.images:
            return None
        grid, side = self.plan.grid, self.plan.side
        place = ops.initial_sources(self.images, grid**2, self.device)
        for matching in self.matchings:
            order = self.plan.encoder.order if self.plan.encoder is not None else "raster"
            place = place.gather(1, ops.survivors(matching, order))
        if self.chosen is not None:
            place = place.gather(1, self.chosen)
        if grid < side:  # the patch under the middle of the coarser cell
            row, column = place // grid, place % grid
            place = ((2 * row + 1) * side // (2 * grid)) * side + (2 * column + 1) * side // (2 * grid)
        return place

    def sources(self) -> Tensor | None:
        """Return for each original patch the survivor that stands for it, int64 (I, N), -1 where it was dropped."""
        if not self.images:
            return None
        grid, side = self.plan.grid, self.plan.side
        standing = ops.initial_sources(self.images, grid**2, self.device)
        for matching in self.matchings:
            order = self.plan.encoder.order if self.plan.encoder is not None else "raster"
            standing = ops.update_sources(standing, matching, order)
        if self.chosen is not None:
            rank = torch.arange(self.chosen.shape[1], device=standing.device).expand_as(self.chosen)
            table = standing.new_full((self.images, self.plan.features), -1).scatter(1, self.chosen, rank)
            standing = table.gather(1, standing)
        if grid < side:
            along = torch.arange(side, device=standing.device) * grid // side
            standing = standing[:, (along[:, None] * grid + along).flatten()]
        return standing


class TowerState:
    """Shared by the hooks of one `apply`: the run in progress, which is the last one afterwards."""

    def __init__(self, plan: Plan, prefix: int):
        self.plan = plan
        self.prefix = prefix
        self.run = Run(plan)
        self.run_all = False  # the caller asked for every hidden state: unread layers run too
        self.inside_model = False  # the model itself calls its tower, and reads only the planned features
