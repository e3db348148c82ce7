"""InternVL: whole units of the pixel shuffle, LayerScale, tiles and frames against the model's own pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evoprune import EvoPrune, Random, apply
from evoprune.models import UnsupportedModel
from evoprune.pruners import Downsample
from tests.families import internvl, literal_units
from tests.families.case import Picture, Video

ROW = ("see ", Picture(33, 60, 1), " then ", Video(3, 20, 30, 2), " or ", Picture(30, 30, 3), " what ?")
TILES = 3 + 3 + 1


@pytest.fixture(scope="module")
def model() -> Any:
    return internvl.model()


def attention(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    one = block.attention
    x = block.layernorm_before(x)
    q, k, v = one.q_norm(one.q_proj(x)), one.k_norm(one.k_proj(x)), one.v_proj(x)
    q, k, v = (part.unflatten(2, (one.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(2, 3) * one.head_dim**-0.5).softmax(-1)
    return block.lambda_1 * one.projection_layer((weights @ v).transpose(1, 2).flatten(2)), weights


def mlp(block: Any, x: Tensor) -> Tensor:
    return block.lambda_2 * block.mlp(block.layernorm_after(x))


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@torch.no_grad()
def test_pictures_and_frames_merge_in_whole_units(model: Any, positions: Any) -> None:
    x = internvl.inputs([ROW])
    pruner = EvoPrune(3, schedule="mean", positions=positions)
    tower = model.model.vision_tower
    hidden, place = literal_units.merged(
        tower.embeddings(x["pixel_values"]), tower.encoder.layer, attention, mlp, pruner,
        pruner.merges(16, 5), (8, 8), 2, prefix=1,
    )  # fmt: skip
    features = model.model.multi_modal_projector(tower.layernorm(hidden)[:, 1:].reshape(TILES, 3, -1))
    expected = literal_units.logits(
        model, model.model.language_model, x["input_ids"][0], features, 16, place if positions == "original" else None
    )
    with apply(model, pruner) as handle:
        found = model(**x).logits[0]
        assert handle.stats.visual_tokens == (3,) * TILES
        assert torch.equal(handle.stats.positions, place)
        generated = model.generate(**x, max_new_tokens=1, do_sample=False)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)
    assert int(generated[0, -1]) == int(expected[-1].argmax())


@pytest.mark.parametrize("layer", [-1, -2])
@torch.no_grad()
def test_picked_units_are_tokens_of_the_unpruned_model(layer: int) -> None:
    """Order of tokens and of channels inside each are those of the model's own pixel shuffle."""
    model = internvl.model(vision_feature_layer=layer)
    pixels = internvl.inputs([ROW])["pixel_values"]
    native = model.model.get_image_features(pixels).pooler_output
    with apply(model, Random(5, seed=1)) as handle:
        output = model.model.get_image_features(pixels)
        places = handle.stats.positions
        tower = model.model.vision_tower(pixels, output_hidden_states=True)
    expected = native.gather(1, places[..., None].expand(-1, -1, native.shape[2]))
    torch.testing.assert_close(output.pooler_output, expected, atol=1e-5, rtol=1e-4)
    for one in (output, tower):  # nobody sees the zeros that stand in for dropped patches
        states = one.last_hidden_state if layer == -1 else one.hidden_states[layer]
        assert states.shape == (TILES, 1 + 5 * 4, 32) and states.abs().sum(-1).min() > 0
    assert torch.equal(model.model.get_image_features(pixels).pooler_output, native)


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_chunks_pick_in_each_part(model: Any, batch: int) -> None:
    x = internvl.inputs([ROW])
    with apply(model, Random(4)) as handle:
        whole, places = model(**x).logits, handle.stats.positions
    with apply(model, Random(4), encoder_batch=batch) as handle:
        torch.testing.assert_close(model(**x).logits, whole, atol=1e-5, rtol=1e-4)
        assert torch.equal(handle.stats.positions, places)


@torch.no_grad()
def test_fewer_pixels_fill_a_smaller_square(model: Any) -> None:
    x = internvl.inputs([ROW])
    with apply(model, Downsample(4)) as handle:
        found = model.model.get_image_features(x["pixel_values"]).pooler_output
        assert handle.stats.tokens == (4,) * 5
    small = torch.nn.functional.interpolate(x["pixel_values"], size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        found, model.model.get_image_features(small).pooler_output, atol=1e-5, rtol=1e-4
    )  # a square itself: upstream's own path takes it


def test_other_features_than_planned_are_refused(model: Any) -> None:
    pixels = internvl.inputs([ROW])["pixel_values"]
    with apply(model, EvoPrune(4, schedule="mean")), pytest.raises(ValueError, match=r"set them in model\.config"):
        model.model.get_image_features(pixels, vision_feature_layer=-2)
    with pytest.raises(UnsupportedModel, match="fill no square"):
        apply(internvl.model(vision_feature_select_strategy="full"), EvoPrune(4))


@torch.no_grad()
def test_tiles_of_another_size_are_the_models_own_affair_until_pruned(model: Any) -> None:
    x = internvl.inputs([("a ", Picture(30, 30, 1), " b")])
    stays = torch.ones_like(x["input_ids"], dtype=torch.bool)
    stays[0, (x["input_ids"][0] == 4).nonzero().flatten()[4:]] = False  # 16 x 16 pixels make 4 tokens
    x = {**{name: x[name][stays][None] for name in ("input_ids", "attention_mask")},
         "pixel_values": x["pixel_values"][..., :16, :16]}  # fmt: skip
    native = model(**x).logits
    with apply(model, EvoPrune(1.0, schedule="mean")):
        assert torch.equal(model(**x).logits, native)
    with apply(model, EvoPrune(4, schedule="mean")), pytest.raises(ValueError, match="16 patch tokens reach a layer"):
        model(**x)
    assert torch.equal(model(**x).logits, native)
