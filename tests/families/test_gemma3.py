"""Gemma 3: the pruned path against the model's own pieces, image blocks, pan-and-scan, the pooling's bypass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from evoprune import EvoPrune, Random, apply
from evoprune.models import Count, Segment, find
from evoprune.pruners import Downsample
from tests.families import gemma3, literal_units
from tests.families.case import Picture

ROW = ("see ", Picture(40, 100, 1), " and ", Picture(64, 64, 2), " what ?")


@pytest.fixture(scope="module")
def model() -> Any:
    return gemma3.model()


def evoprune(keep: int | float, **settings: Any) -> EvoPrune:
    return EvoPrune(keep, schedule="mean", **settings)


def projected(model: Any, patches: Tensor) -> Tensor:
    projector = model.model.multi_modal_projector
    return projector.mm_soft_emb_norm(patches) @ projector.mm_input_projection_weight


def by_hand(model: Any, pixels: Tensor, pruner: EvoPrune) -> tuple[Tensor, Tensor]:
    """Return the features (I, K, C) and the surviving patches (I, K)."""
    tower = model.model.vision_tower
    merges = pruner.merges(256, 8, keep=4)
    hidden, place = literal_units.merged(
        tower.embeddings(pixels), tower.encoder.layers, literal_units.siglip_attention, literal_units.siglip_mlp,
        pruner, merges, (16, 16), 1,
    )  # fmt: skip
    return projected(model, tower.post_layernorm(hidden)), place


def masks(image: Tensor, window: int) -> dict[str, Tensor]:
    """Return who sees whom (1, 1, S, S): everything before, and the whole of one's own image; near by for sliding."""
    places = torch.arange(len(image))
    seen = places[:, None] >= places
    seen |= (image[:, None] == image) & (image >= 0)
    return {
        "full_attention": seen[None, None],
        "sliding_attention": (seen & (places > places[:, None] - window))[None, None],
    }


def logits(model: Any, ids: Tensor, features: Tensor, cells: Tensor | None) -> Tensor:
    embeds, columns, image = literal_units.short_prompt(model, ids, features, 16)
    positions = torch.arange(len(columns))
    if cells is not None:
        positions = columns.clone()
        positions[image >= 0] += cells.flatten()
    out = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions[None], attention_mask=masks(image, 32), use_cache=False
    )
    return model.lm_head(out.last_hidden_state)[0]


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("scan", [False, True], ids=["plain", "pan-and-scan"])
@torch.no_grad()
def test_patches_merge_straight_to_keep_and_each_image_sees_itself(model: Any, positions: Any, scan: bool) -> None:
    x = gemma3.inputs([ROW], **(gemma3.SCAN if scan else {}))
    assert len(x["pixel_values"]) == (5 if scan else 2)
    pruner = evoprune(4, positions=positions)
    features, place = by_hand(model, x["pixel_values"], pruner)
    cells = place // 16 // 4 * 4 + place % 16 // 4
    expected = logits(model, x["input_ids"][0], features, cells if positions == "original" else None)
    with apply(model, pruner) as handle:
        found = model(**x).logits[0]
        assert torch.equal(handle.stats.positions, place)
        generated = model.generate(**x, max_new_tokens=1, do_sample=False)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)
    assert int(generated[0, -1]) == int(expected[-1].argmax())


@torch.no_grad()
def test_the_literal_masks_are_those_of_the_unpruned_model(model: Any) -> None:
    x = gemma3.inputs([ROW])
    native = model.model.get_image_features(x["pixel_values"]).pooler_output
    expected = logits(model, x["input_ids"][0], native, None)
    torch.testing.assert_close(model(**x).logits[0], expected, atol=2e-5, rtol=2e-4)


@torch.no_grad()
def test_the_feature_stage_picks_patches_before_the_projection(model: Any) -> None:
    pixels = gemma3.inputs([ROW])["pixel_values"]
    native = model.model.vision_tower(pixels).last_hidden_state
    with apply(model, Random(4, seed=3)) as handle:
        found = model.model.get_image_features(pixels).pooler_output
        places = handle.stats.positions
    chosen = native.gather(1, places[..., None].expand(-1, -1, native.shape[2]))
    torch.testing.assert_close(found, projected(model, chosen), atol=1e-6, rtol=1e-5)
    assert found.shape[:2] == (2, 4)


@torch.no_grad()
def test_fewer_pixels_need_no_pooling_either(model: Any) -> None:
    x = gemma3.inputs([ROW])
    with apply(model, Downsample(4)) as handle:
        found = model.model.get_image_features(x["pixel_values"]).pooler_output
        assert handle.stats.tokens == (4,) * 8
        assert model(**x).logits.shape[1] == x["input_ids"].shape[1] - 2 * (16 - 4)
    small = torch.nn.functional.interpolate(x["pixel_values"], size=(8, 8), mode="bilinear", antialias=True)
    hidden = model.model.vision_tower(small, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(found, projected(model, hidden), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_keep_counts_what_the_language_model_sees(model: Any) -> None:
    with apply(model, evoprune(0.5)) as handle:
        model(**gemma3.inputs([ROW]))
        assert handle.stats.visual_tokens == (8, 8)
        assert handle.stats.tokens[-1] == 8
    with pytest.raises(ValueError, match="keep=17 is above the 16 tokens"):
        apply(model, evoprune(17))


def test_tokens_of_the_released_models() -> None:
    """64 x 64 patches merge to a share of 256, the tokens that the language model natively sees."""
    vision = {"model_type": "siglip_vision_model", "image_size": 896, "patch_size": 14, "num_hidden_layers": 1}
    text = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "vocab_size": 64}
    vision |= {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = Gemma3Config(vision_config=vision, text_config=text)
    with torch.device("meta"):
        family = find(Gemma3ForConditionalGeneration(config))
    assert family.units((64, 64)) == 4096
    assert family.tokens_after([EvoPrune(0.25)]) == (256, 64)
    corners = torch.tensor([0, 63, 64 * 3 + 4, 64 * 4, 4095])
    cells = family.offsets(Segment(Count(256, 5)), [corners])
    assert cells.tolist() == [0, 15, 1, 16, 255]
