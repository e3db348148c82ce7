"""FLOPs of an unpruned tower, to set those of a pruned one against."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import flops
from ..models import find


class TowerFlops(NamedTuple):
    """FLOPs of the tower's layers for one picture without pruning.

    `read` counts the layers whose output the model uses, `shipped` all that the model runs as it is (LLaVA-1.5 runs
    a last layer that nobody reads). `evoprune.apply` leaves that layer out, so `read` is the fair reference.
    """

    read: int
    shipped: int


def unpruned(model: Any) -> TowerFlops:
    """Return the FLOPs of `model`'s tower on one picture, by the shape model of `evoprune.flops`."""
    family = find(model)
    config: Any = family.tower.config
    layers = max(family.feature_layers), len(family.blocks)
    costs = (
        flops.tower(family.tokens, (0,) * count, config.hidden_size, config.intermediate_size, family.prefix)
        for count in layers
    )
    return TowerFlops(*costs)
