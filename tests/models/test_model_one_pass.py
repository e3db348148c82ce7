"""Where a merging layer's output and the attention received come from one pass, and where they must not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune import ops
from evoprune.apply import apply
from evoprune.ops.kernels import reference_path
from evoprune.pruners import EvoPrune, Random
from tests import builders

MERGING = 2  # layers 1 and 3 of the five that run


def pixels() -> torch.Tensor:
    return builders.inputs(["<image> "], [0])["pixel_values"]


@pytest.fixture
def calls(monkeypatch: Any) -> list[int]:
    found: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(args[0].shape[2])
        return attend(*args, **kwargs)

    attend = ops.attend
    monkeypatch.setattr(ops, "attend", counted)
    return found


def features(model: Any, pruner: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with apply(model, pruner) as handle:
        output = model.model.get_image_features(pixels()).pooler_output
        return torch.stack(list(output)), handle.stats.sources


@pytest.mark.parametrize("settings", [{}, {"proportional_attention": True}, {"features": "keys"}], ids=str)
def test_one_pass_gives_what_two_give(calls: list[int], settings: dict[str, Any]) -> None:
    model, pruner = builders.model(), EvoPrune(16, **settings)
    with torch.no_grad():
        found, sources = features(model, pruner)
        assert calls == [65, 33]
        with reference_path():
            wanted, places = features(model, pruner)
    assert len(calls) == MERGING
    assert torch.equal(sources, places)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_gradients_eager_attention_and_other_stages_keep_the_models_own_attention(calls: list[int]) -> None:
    features(builders.model(), EvoPrune(16))  # weights that want gradients
    with torch.no_grad():
        features(builders.model(attention="eager"), EvoPrune(16))
        features(builders.model(), EvoPrune(16, attention=False, proportional_attention=True))
        features(builders.model(), Random(16))
        features(builders.model(), EvoPrune(1.0))
    assert calls == []


def test_a_frozen_tower_takes_one_pass_though_gradients_are_on(calls: list[int]) -> None:
    model = builders.model()
    model.requires_grad_(False)
    features(model, EvoPrune(16))
    assert len(calls) == MERGING


def test_dropout_in_training_keeps_the_models_own_attention(calls: list[int]) -> None:
    model = builders.model()
    model.requires_grad_(False).train()
    for block in model.model.vision_tower.encoder.layers:
        block.self_attn.dropout = 0.5
    features(model, EvoPrune(16))
    assert calls == []
