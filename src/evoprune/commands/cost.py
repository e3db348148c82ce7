"""FLOPs of an unpruned tower, to set those of a pruned one against."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..apply import Stats
from ..models import find


class TowerFlops(NamedTuple):
    """FLOPs of the tower's layers without pruning.

    `read` counts the layers whose output the model uses, `shipped` all that the model runs as it is (LLaVA-1.5 runs
    a last layer that nobody reads). `evoprune.apply` leaves that layer out, so `read` is the fair reference.
    """

    read: int
    shipped: int


def unpruned(model: Any, stats: Stats) -> TowerFlops:
    """Return the FLOPs that the pictures of a pruned forward cost unpruned, by the shape model of `evoprune.flops`."""
    family = find(model)
    layers = max(family.feature_layers), len(family.blocks)
    return TowerFlops(*(sum(family.tower_flops(grid, (0,) * count) for grid in stats.grids) for count in layers))
