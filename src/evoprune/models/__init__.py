"""Model families: WHERE tokens are dropped, by hooks on unmodified transformers models."""

from __future__ import annotations

from typing import Any

from torch import nn

from .base import BlockSpec, Count, Family, Segment, UnsupportedModel
from .gemma3 import Gemma3
from .idefics3 import Idefics3, SmolVLM
from .internvl import InternVL
from .llava import Llava
from .llava_next import LlavaNext
from .llava_next_video import LlavaNextVideo
from .llava_onevision import LlavaOnevision
from .qwen2_5_vl import Qwen25VL
from .qwen2_vl import Qwen2VL
from .qwen3_vl import Qwen3VL

TESTED = ("5.17", "5.23")  # the releases of transformers that every family's tests run on
FAMILIES: list[type[Family]] = [
    Llava, LlavaNext, LlavaNextVideo, LlavaOnevision, Gemma3, InternVL, Idefics3, SmolVLM, Qwen2VL, Qwen25VL, Qwen3VL,
]  # fmt: skip

__all__ = ["FAMILIES", "TESTED", "BlockSpec", "Count", "Family", "Segment", "UnsupportedModel", "find", "unwrap"]


def unwrap(model: nn.Module) -> Any:
    """Return the transformers model inside PEFT, torch.compile and data-parallel wrappers."""
    for _ in range(8):
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()  # type: ignore[operator]
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif not hasattr(model, "config") and isinstance(getattr(model, "module", None), nn.Module):
            model = model.module  # type: ignore[assignment]
        else:
            break
    return model


def find(model: nn.Module, **options: str) -> Family:
    """Return the adapter of `model`'s family, found by `config.model_type` and structure; `options` are its choices.

    Raises
    ------
    UnsupportedModel
        No family fits; the message lists those that exist.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    for family in FAMILIES:
        if model_type in family.model_types:
            adapter = family(model, **options)
            _ = adapter.blocks  # fails here, before anything is changed, when the tower is of an unknown kind
            return adapter
    known = ", ".join(f"{family.name} (model_type {' or '.join(family.model_types)})" for family in FAMILIES)
    raise UnsupportedModel(
        f"{type(model).__name__} (model_type {model_type!r}) is of no supported family: supported are {known}; "
        "see 'add a model family' in AGENTS.md"
    )
