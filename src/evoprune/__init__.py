"""Visual-token pruning for multimodal language models, without training: ``evoprune.apply(model, pruner)``."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .apply import Handle, apply
    from .models import UnsupportedModel
    from .models.processor import patch_processor
    from .pruners import (
        DART,
        AdaptivePool,
        CDPruner,
        DivPrune,
        Downsample,
        EvoPrune,
        FasterVLM,
        FastV,
        FitPrune,
        IDPruner,
        KeepFirst,
        Pruner,
        Random,
        ToMe,
        UniformGrid,
        VisionZip,
        VisPruner,
    )
    from .video import read_video

# Where each public name lives. They are imported when first used: torch takes seconds, and `evoprune --help`,
# an entry point or a look at the version should not wait for it.
_HOMES = {
    "AdaptivePool": "pruners",
    "CDPruner": "pruners",
    "DART": "pruners",
    "DivPrune": "pruners",
    "Downsample": "pruners",
    "EvoPrune": "pruners",
    "FastV": "pruners",
    "FasterVLM": "pruners",
    "FitPrune": "pruners",
    "Handle": "apply",
    "IDPruner": "pruners",
    "KeepFirst": "pruners",
    "Pruner": "pruners",
    "Random": "pruners",
    "ToMe": "pruners",
    "UniformGrid": "pruners",
    "UnsupportedModel": "models",
    "VisPruner": "pruners",
    "VisionZip": "pruners",
    "apply": "apply",
    "patch_processor": "models.processor",
    "read_video": "video",
}

__all__ = [
    "DART",
    "AdaptivePool",
    "CDPruner",
    "DivPrune",
    "Downsample",
    "EvoPrune",
    "FastV",
    "FasterVLM",
    "FitPrune",
    "Handle",
    "IDPruner",
    "KeepFirst",
    "Pruner",
    "Random",
    "ToMe",
    "UniformGrid",
    "UnsupportedModel",
    "VisPruner",
    "VisionZip",
    "__version__",
    "apply",
    "patch_processor",
    "read_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    # Importing the submodule evoprune.apply binds its name in this package; the name stays the function's.
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.apply if name == "apply" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
