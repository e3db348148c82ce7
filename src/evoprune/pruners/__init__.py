"""The methods: one file each, and one line each in this registry."""

from __future__ import annotations

from ..errors import unknown
from .base import DecoderPruner, EncoderPruner, FeaturePruner, FeatureView, InputPruner, LayerView, Pruner
from .downsample import Downsample
from .evoprune import EvoPrune
from .grid import UniformGrid
from .random import Random

METHODS: dict[str, type[Pruner]] = {
    EvoPrune.name: EvoPrune,
    Random.name: Random,
    UniformGrid.name: UniformGrid,
    Downsample.name: Downsample,
}


def get(name: str) -> type[Pruner]:
    """Return the class of a method by its name; ValueError with the nearest name where there is none."""
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        raise ValueError(unknown("method", name, METHODS))
    return method


__all__ = [
    "METHODS",
    "DecoderPruner",
    "Downsample",
    "EncoderPruner",
    "EvoPrune",
    "FeaturePruner",
    "FeatureView",
    "InputPruner",
    "LayerView",
    "Pruner",
    "Random",
    "UniformGrid",
    "get",
]
