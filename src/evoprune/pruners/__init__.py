"""The methods: one file each, and one line each in this registry."""

from __future__ import annotations

from ..errors import unknown
from .base import DecoderPruner, EncoderPruner, FeaturePruner, InputPruner, Pruner
from .cdpruner import CDPruner
from .dart import DART
from .divprune import DivPrune
from .downsample import Downsample
from .evoprune import EvoPrune
from .fastervlm import FasterVLM
from .fastv import FastV
from .first import KeepFirst
from .fitprune import FitPrune
from .grid import UniformGrid
from .idpruner import IDPruner
from .pool import AdaptivePool
from .random import Random
from .tome import ToMe
from .views import DecoderView, FeatureView, LayerView
from .visionzip import VisionZip
from .vispruner import VisPruner

METHODS: dict[str, type[Pruner]] = {
    EvoPrune.name: EvoPrune,
    ToMe.name: ToMe,
    FasterVLM.name: FasterVLM,
    VisPruner.name: VisPruner,
    VisionZip.name: VisionZip,
    DivPrune.name: DivPrune,
    CDPruner.name: CDPruner,
    IDPruner.name: IDPruner,
    FastV.name: FastV,
    DART.name: DART,
    FitPrune.name: FitPrune,
    Random.name: Random,
    UniformGrid.name: UniformGrid,
    AdaptivePool.name: AdaptivePool,
    KeepFirst.name: KeepFirst,
    Downsample.name: Downsample,
}


def get(name: str) -> type[Pruner]:
    """Return the class of a method by its name; ValueError with the nearest name where there is none."""
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        raise ValueError(unknown("method", name, METHODS))
    return method


__all__ = [
    "DART",
    "METHODS",
    "AdaptivePool",
    "CDPruner",
    "DecoderPruner",
    "DecoderView",
    "DivPrune",
    "Downsample",
    "EncoderPruner",
    "EvoPrune",
    "FastV",
    "FasterVLM",
    "FeaturePruner",
    "FeatureView",
    "FitPrune",
    "IDPruner",
    "InputPruner",
    "KeepFirst",
    "LayerView",
    "Pruner",
    "Random",
    "ToMe",
    "UniformGrid",
    "VisPruner",
    "VisionZip",
    "get",
]
