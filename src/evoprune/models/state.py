"""What one forward of the tower leaves behind: which units merged into which, and where survivors stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .base import Grid, Modality
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
    importance
        (G, T) float32 for the feature stage.
    chosen
        int64 (G, K), what the feature stage picked.
    start
        int64 (T,) raster index of the units as the tower orders them, None for raster order.
    """

    def __init__(self, plan: Plan, budget: Budget, items: Sequence[int], device: torch.device):
        self.plan, self.budget, self.items, self.device = plan, budget, tuple(items), device
        self.left = budget.entering
        self.sizes: Tensor | None = None
        self.matchings: list[Any] = []
        self.importance: Tensor | None = None
        self.chosen: Tensor | None = None
        self.start: Tensor | None = None

    @property
    def order(self) -> Any:
        return self.plan.encoder.order if self.plan.encoder is not None else "raster"

    def merged(self, matching: Any, sizes: Tensor) -> None:
        """Note one merge; attention received before it is added up over what merged."""
        if self.importance is not None:
            images, tokens = self.importance.shape
            start = ops.initial_sources(images, tokens, self.importance.device)
            standing = ops.update_sources(start, matching, self.order)
            self.importance = torch.zeros_like(sizes).scatter_add(1, standing, self.importance)
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
            place = place.gather(1, self.chosen)
        return place if self.start is None else self.start.to(place.device)[place]

    def leaving(self) -> Tensor | None:
        """Return the survivors' places in the tower in the order in which they leave, int64 (G, K).

        None where that is the tower's own order; a tower that orders units otherwise is left in raster order.
        """
        return None if self.start is None else self._places().argsort(dim=1)

    def positions(self) -> Tensor:
        """Return the original raster index of each survivor, int64 (G, K)."""
        place = self._places()
        if self.start is not None:
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
            rank = torch.arange(self.chosen.shape[1], device=standing.device).expand_as(self.chosen)
            shape = len(self.items), self.budget.features
            table = standing.new_full(shape, -1).scatter(1, self.chosen, rank)
            standing = table.gather(1, standing)
        leaving = self.leaving()
        if self.start is not None and leaving is not None:
            rank = leaving.argsort(dim=1).gather(1, standing.clamp(min=0))
            standing = torch.where(standing < 0, standing, rank)
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


class Run:
    """One forward of the tower; the maps are computed only when they are read."""

    def __init__(
        self, plan: Plan, grids: Sequence[Grid] = (), modality: Modality = "image", device: torch.device | None = None
    ):
        self.plan, self.modality = plan, modality
        self.images = len(grids)
        self.in_units = False  # the hidden states have been put in the order of their units
        self.received: list[Tensor] = []  # attention for the feature stage, not yet given to the groups
        self.stash: Any = None  # the family's own
        by_grid: dict[Grid, list[int]] = {}
        for i, grid in enumerate(grids):
            by_grid.setdefault(grid, []).append(i)
        place = device or torch.device("cpu")
        self.groups = [Group(plan, plan.budget(grid, modality), items, place) for grid, items in by_grid.items()]

    @property
    def pruned(self) -> bool:
        """Whether any item is pruned."""
        return any(group.budget.pruned for group in self.groups)

    @property
    def lefts(self) -> list[int]:
        """Units that are left of each item, in the tower's order."""
        return self.by_item([[group.left] * len(group.items) for group in self.groups])

    @property
    def budgets(self) -> list[Budget]:
        """The budget of each item."""
        return self.by_item([[group.budget] * len(group.items) for group in self.groups])

    def settle(self, form: Any) -> None:
        """Give the attention that the tap has noted for the feature stage to the groups."""
        if self.received:
            for group, score in zip(self.groups, form.scores(self.received, self), strict=True):
                group.importance = score
            self.received = []

    def positions(self) -> list[Tensor]:
        """Return the original raster indices of each item's survivors, int64 (K,) each."""
        return self.by_item([list(group.positions()) for group in self.groups])

    def sources(self) -> list[Tensor]:
        """Return for each item the survivor that stands for each unit, int64 (N,), -1 where it was dropped."""
        return self.by_item([list(group.sources()) for group in self.groups])

    def by_item(self, values: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the groups' values, one for each of their items, in the tower's order of items."""
        pairs = zip([i for group in self.groups for i in group.items], [v for row in values for v in row], strict=True)
        found = dict(pairs)
        return [found[i] for i in range(self.images)]


class TowerState:
    """Shared by the hooks of one `apply`: the run in progress, which is the last one afterwards."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.form = plan.family.form
        self.run = Run(plan)
        self.runs: dict[Modality, list[Run]] = {}  # of the call in progress; several where the tower ran in chunks
        self.modality: Modality = "image"
        self.run_all = False  # the caller asked for every hidden state: unread layers run too
        self.inside_model = False  # the model itself calls its tower, and reads only the planned features
        self.encoding = False  # get_image_features or get_video_features runs: a projector follows the tower

    def begin(self, grids: Sequence[Grid], device: torch.device, more: bool = False) -> Run:
        """Begin a run of the tower; `more` says that it goes on with the items of the run before."""
        self.run = Run(self.plan, grids, self.modality, device)
        if not more:
            self.runs[self.modality] = []
        self.runs.setdefault(self.modality, []).append(self.run)
        return self.run

    def clear(self) -> None:
        """Forget the runs of an earlier call."""
        self.run, self.runs = Run(self.plan), {}

    @property
    def all_runs(self) -> list[Run]:
        """Runs of the last call, images first."""
        return [run for modality in ("image", "video") for run in self.runs.get(modality, [])]  # type: ignore

    def survivors(self, modality: Modality) -> list[Tensor]:
        """Return the survivors of all items of a modality, int64 (K,) each."""
        return [places for run in self.runs.get(modality, []) for places in run.positions()]
