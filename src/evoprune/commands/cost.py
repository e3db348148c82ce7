"""FLOPs of an unpruned tower, to set those of a pruned one against."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..models import find


class TowerFlops(NamedTuple):
    """FLOPs of the tower's layers for one picture without pruning.

    `read` counts the layers whose output the model uses, `shipped` all that the model runs as it is (LLaVA-1.5 runs
    a last layer that nobody reads). `evoprune.apply` leaves that layer out, so `read` is the fair reference.
    """

    read: int
    shipped: int


def unpruned(model: Any) -> TowerFlops:
    """Return the FLOPs of `model`'s tower on one picture of fixed size, by the shape model of `evoprune.flops`."""
    family = find(model)
    grid = family.grid
    if grid is None:
        raise ValueError(f"the pictures of {family.name} vary in size: their FLOPs are known after a forward only")
    layers = max(family.feature_layers), len(family.blocks)
    return TowerFlops(*(family.tower_flops(grid, (0,) * count) for count in layers))
