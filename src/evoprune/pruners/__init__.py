"""The methods: one file each, and one line each in this registry."""

from __future__ import annotations

from ..errors import unknown
from .base import (
    DecoderPruner,
    DecoderView,
    EncoderPruner,
    FeaturePruner,
    FeatureView,
    InputPruner,
    LayerView,
    Pruner,
)
from .divprune import DivPrune
from .downsample import Downsample
from .evoprune import EvoPrune
from .fastervlm import FasterVLM
from .grid import UniformGrid
from .random import Random
from .tome import ToMe
from .vispruner import VisPruner

METHODS: dict[str, type[Pruner]] = {
    EvoPrune.name: EvoPrune,
    ToMe.name: ToMe,
    FasterVLM.name: FasterVLM,
    VisPruner.name: VisPruner,
    DivPrune.name: DivPrune,
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
    "DecoderView",
    "DivPrune",
    "Downsample",
    "EncoderPruner",
    "EvoPrune",
    "FasterVLM",
    "FeaturePruner",
    "FeatureView",
    "InputPruner",
    "LayerView",
    "Pruner",
    "Random",
    "ToMe",
    "UniformGrid",
    "VisPruner",
    "get",
]
