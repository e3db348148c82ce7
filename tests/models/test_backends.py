"""Attention backends that cannot be looked into are refused by `apply`, in a sentence, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune import DART, EvoPrune, FasterVLM, FastV, Pruner, VisionZip, apply
from tests import builders

TEXT = ["USER: <image> what is this ? ASSISTANT:"]


def refused(model: Any, pruner: Pruner, words: str) -> None:
    x = builders.inputs(TEXT, [1])
    before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=words):
        apply(model, pruner)
    assert before == {name: len(module._forward_hooks) for name, module in model.named_modules()}
    model.model.vision_tower.config._attn_implementation_internal = "sdpa"
    model.model.language_model.config._attn_implementation_internal = "sdpa"
    with torch.no_grad(), apply(model, pruner):
        assert torch.isfinite(model(**x).logits).all()


@pytest.mark.parametrize("pruner", [EvoPrune(16), FasterVLM(16), VisionZip(16)], ids=lambda one: one.name)
def test_a_tower_whose_backend_shows_no_queries(pruner: Pruner) -> None:
    model = builders.model()
    model.model.vision_tower.config._attn_implementation_internal = "somewhere/else"
    refused(model, pruner, "shows no queries and keys.*attn_implementation='sdpa'")


@pytest.mark.parametrize("backend", ["flex_attention", "paged|sdpa"])
@pytest.mark.parametrize("pruner", [FastV(16, layer=1), DART(16, layer=1)], ids=lambda one: one.name)
def test_a_language_model_whose_masks_cannot_be_cut(pruner: Pruner, backend: str) -> None:
    model = builders.model()
    model.model.language_model.config._attn_implementation_internal = backend
    refused(model, pruner, "masks that cannot be cut.*attn_implementation='sdpa'")


@pytest.mark.parametrize("pruner", [FastV(16, layer=1), DART(16, layer=1)], ids=lambda one: one.name)
def test_a_language_model_whose_backend_shows_no_queries(pruner: Pruner) -> None:
    model = builders.model()
    model.model.language_model.config._attn_implementation_internal = "somewhere/else"
    refused(model, pruner, "shows no queries and keys.*attn_implementation='sdpa'")
