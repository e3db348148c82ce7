"""What one forward of the tower leaves behind: which units merged into which, and where survivors stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Grid, Modality
from .facts import Facts
from .forms import unit_means
from .groups import Group
from .plan import Budget, Plan


class Run:
    """One forward of the tower; the maps are computed only when they are read."""

    def __init__(
        self, plan: Plan, grids: Sequence[Grid] = (), modality: Modality = "image", device: torch.device | None = None
    ):
        self.plan, self.modality = plan, modality
        self.images = len(grids)
        self.in_units = False  # the hidden states have been put in the order of their units
        self.received: list[Tensor] = []  # attention for the feature stage, not yet given to the groups
        self.keys: list[Tensor] = []  # the same of the keys
        self.cls: Tensor | None = None  # (B, C) state of CLS in the hidden states that are read, for the feature stage
        self.entering: Tensor | None = None  # what enters the projector, for a feature stage behind it
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

    def merges_at(self, layer: int) -> bool:
        """Return whether any item merges at `layer`."""
        return any(group.budget.merges[layer] for group in self.groups)

    @property
    def lefts(self) -> list[int]:
        """Units that are left of each item, in the tower's order."""
        return self.by_item([[group.left] * len(group.items) for group in self.groups])

    @property
    def budgets(self) -> list[Budget]:
        """The budget of each item."""
        return self.by_item([[group.budget] * len(group.items) for group in self.groups])

    def settle(self, form: Any) -> None:
        """Give the attention and keys that the tap has noted for the feature stage to the groups."""
        if self.received:
            for group, score in zip(self.groups, form.scores(self.received, self), strict=True):
                group.importance = score
            self.received = []
        if self.keys:
            for group, units in zip(self.groups, form.arrange(self.keys, self), strict=True):
                group.keys = unit_means(units, form.unit)
            self.keys = []

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
        self.facts: Facts | None = None  # of the prompt in progress, if a pruner reads it
        self.images: tuple[int, ...] = ()  # visual tokens an image of the last call, in the language model
        self.active = True  # until the pruners are removed: somebody may have kept a wrapped forward
        self.over_ranks: Callable[[Tensor], Tensor] | None = None  # mean over processes that share a layer's heads
        self.encoding = False  # get_image_features or get_video_features runs: a projector follows the tower

    def begin(self, grids: Sequence[Grid], device: torch.device, more: bool = False) -> Run:
        """Begin a run of the tower; `more` says that it goes on with the items of the run before."""
        if not more:
            if not self.encoding:  # the tower is called by itself
                self.clear()
            self.runs[self.modality] = []
        self.run = Run(self.plan, grids, self.modality, device)
        self.runs.setdefault(self.modality, []).append(self.run)
        return self.run

    def clear(self) -> None:
        """Forget the runs of an earlier call."""
        self.run, self.runs, self.images = Run(self.plan), {}, ()

    def close(self) -> None:
        """Let everything that is left of the hooks do nothing; what the last call did can still be read."""
        self.active, self.run = False, Run(self.plan)

    @property
    def all_runs(self) -> list[Run]:
        """Runs of the last call, images first."""
        return [run for modality in ("image", "video") for run in self.runs.get(modality, [])]  # type: ignore

    def survivors(self, modality: Modality) -> list[Tensor]:
        """Return the survivors of all items of a modality, int64 (K,) each."""
        return [places for run in self.runs.get(modality, []) for places in run.positions()]
