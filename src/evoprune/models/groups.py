"""Tower items of one grid: which units merged into which, and where the survivors stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .counts import Grid
from .plan import Budget, Plan


class Group:
    """The items (pictures, tiles, frames) of one grid: they are matched and merged as one batch.

    Attributes
    ----------
    items
        Their numbers in the tower's call.
    left
        Units of each that are left.
    sizes
        (G, T) float32 how many units each one stands for, None before the first merge.
    importance, keys
        (G, T) float32 and (G, T, D) for the feature stage.
    chosen
        int64 (G, K), what the feature stage picked: in the order in which it leaves.
    held
        int64 (G, T), which token that leaves holds each unit, -1 for none; None: only those chosen.
    combine
        Makes what leaves of other (G, T, U) values of the units; None where nothing was picked.
    start
        int64 (T,) raster index of the units as the tower orders them, None for raster order.
    """

    def __init__(self, plan: Plan, budget: Budget, items: Sequence[int], device: torch.device):
        self.plan, self.budget, self.items, self.device = plan, budget, tuple(items), device
        self.left = budget.entering
        self.sizes: Tensor | None = None
        self.matchings: list[Any] = []
        self.importance: Tensor | None = None
        self.keys: Tensor | None = None
        self.chosen: Tensor | None = None
        self.held: Tensor | None = None
        self.combine: Callable[[Tensor], Tensor] | None = None
        self.start: Tensor | None = None

    @property
    def order(self) -> Any:
        return self.plan.encoder.order if self.plan.encoder is not None else "raster"

    def merged(self, matching: Any, sizes: Tensor) -> None:
        """Note one merge; attention received before it is added up over what merged, keys are averaged by size."""
        if self.importance is not None or self.keys is not None:
            start = ops.initial_sources(sizes.shape[0], self.left, sizes.device)
            standing = ops.update_sources(start, matching, self.order)
            if self.importance is not None:
                self.importance = torch.zeros_like(sizes).scatter_add(1, standing, self.importance)
            if self.keys is not None:
                keys = self.keys.float() if self.sizes is None else self.keys.float() * self.sizes[..., None]
                sums = keys.new_zeros(*sizes.shape, keys.shape[2])
                keys = sums.scatter_add(1, standing[..., None].expand_as(keys), keys)
                self.keys = keys / sizes[..., None]
        self.matchings.append(matching)
        self.sizes = sizes
        self.left = sizes.shape[1]

    def standing(self) -> Tensor:
        """Return the index, as the tower ordered them at first, of the units that are left in the tower, (G, T)."""
        place = ops.initial_sources(len(self.items), self.budget.entering, self.device)
        for matching in self.matchings:
            place = place.gather(1, ops.survivors(matching, self.order))
        return place

    def _places(self) -> Tensor:
        place = self.standing()
        if self.chosen is not None:
            place = place.gather(1, self.chosen.to(place.device))
        return self._in_raster(place)

    def _in_raster(self, place: Tensor) -> Tensor:
        return place if self.start is None else self.start.to(place.device)[place]

    @property
    def grid(self) -> Grid | None:
        """Units (rows, columns) that are left in the tower, None where some have merged."""
        return None if self.matchings else self._grids()[1]

    def raster(self) -> Tensor | None:
        """Return the units that are left in the tower in raster order, int64 (G, T); None where they lie so."""
        if self.start is None and (self.order == "raster" or not self.matchings):
            return None
        return self._in_raster(self.standing()).argsort(dim=1)

    def picked(self, chosen: Tensor, held: Tensor | None, order: Tensor | None) -> None:
        """Note what the feature stage has picked of the units in `order` (`raster`)."""
        if order is not None:
            chosen = order.gather(1, chosen)
            held = None if held is None else torch.empty_like(held).scatter(1, order, held)
        self.chosen, self.held = chosen, held

    def leaving(self) -> Tensor | None:
        """Return the survivors' places in the tower in the order in which they leave, int64 (G, K).

        None where that is the order in which they lie: the tower's own, or that of the feature stage. A tower that
        orders units otherwise is left in raster order.
        """
        return None if self.start is None or self.chosen is not None else self._places().argsort(dim=1)

    def positions(self) -> Tensor:
        """Return the original raster index of each survivor, int64 (G, K)."""
        place = self._places()
        if self.leaving() is not None:
            place = place.sort(dim=1).values
        (rows, columns), (few, narrow) = self._grids()
        if (few, narrow) != (rows, columns):  # the unit under the middle of the coarser cell
            row, column = place // narrow, place % narrow
            place = ((2 * row + 1) * rows // (2 * few)) * columns + (2 * column + 1) * columns // (2 * narrow)
        return place

    def sources(self) -> Tensor:
        """Return for each original unit the survivor that stands for it, int64 (G, N), -1 where it was dropped."""
        standing = ops.initial_sources(len(self.items), self.budget.entering, self.device)
        for matching in self.matchings:
            standing = ops.update_sources(standing, matching, self.order)
        if self.chosen is not None:
            table = self.held
            if table is None:
                rank = torch.arange(self.chosen.shape[1], device=standing.device).expand(self.chosen.shape)
                shape = len(self.items), self.budget.features
                table = standing.new_full(shape, -1).scatter(1, self.chosen.to(standing.device), rank)
            standing = table.gather(1, standing)
        leaving = self.leaving()
        if leaving is not None:
            standing = leaving.argsort(dim=1).gather(1, standing)
        if self.start is not None:
            start = self.start.to(standing.device).expand_as(standing)
            standing = torch.empty_like(standing).scatter(1, start, standing)
        (rows, columns), (few, narrow) = self._grids()
        if (few, narrow) != (rows, columns):
            down = torch.arange(rows, device=standing.device) * few // rows
            along = torch.arange(columns, device=standing.device) * narrow // columns
            standing = standing[:, (down[:, None] * narrow + along).flatten()]
        return standing

    def _grids(self) -> tuple[Grid, Grid]:
        side = self.plan.family.unit_side
        full, grid = self.budget.full, self.budget.grid
        return (full[0] // side, full[1] // side), (grid[0] // side, grid[1] // side)
