"""Idefics3 and SmolVLM: whole units of the connector's pixel shuffle, tiles, frames, padded pictures."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from evoprune import EvoPrune, Random, apply
from evoprune.models import UnsupportedModel, find
from evoprune.pruners import Downsample
from tests.families import idefics3, literal_units
from tests.families.case import Picture, Video

ROW = ("see ", Picture(20, 60, 1), " or ", Picture(30, 30, 3), " what ?")
TILES = 4 + 10
KINDS = pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: idefics3.model(kind) for kind in ("idefics3", "smolvlm")}


def by_hand(model: Any, pixels: Tensor, pruner: Any, keep: int, side: int = 8, scale: int = 2) -> tuple[Tensor, Tensor]:
    tower = model.model.vision_model
    whole = torch.ones(len(pixels), side, side, dtype=torch.bool)
    hidden, place = literal_units.merged(
        tower.embeddings(pixels, whole), tower.encoder.layers, literal_units.siglip_attention,
        literal_units.siglip_mlp, pruner, pruner.merges(16, 5), (side, side), scale,
    )  # fmt: skip
    units = tower.post_layernorm(hidden).reshape(len(pixels), keep, -1)
    return model.model.connector.modality_projection(units), place


def tokens(output: Any) -> Tensor:
    """Return the features of all tiles, which newer releases group by prompt, as (tiles, tokens, C)."""
    features = output.pooler_output
    return features if isinstance(features, Tensor) else torch.cat(features)


@KINDS
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["contiguous", "original"])
@torch.no_grad()
def test_tiles_merge_in_whole_units(models: dict[str, Any], kind: str, attention: str, positions: Any) -> None:
    model = models[kind] if attention == "sdpa" else idefics3.model(kind, attention)
    x = idefics3.inputs([ROW], kind)
    pruner = EvoPrune(3, schedule="mean", positions=positions)
    features, place = by_hand(model, x["pixel_values"][0], pruner, 3)
    assert len(features) == TILES
    expected = literal_units.logits(
        model, model.model.text_model, x["input_ids"][0], features, 16, place if positions == "original" else None
    )
    with apply(model, pruner) as handle:
        found = model(**x).logits[0]
        assert handle.stats.visual_tokens == (3,) * TILES
        assert torch.equal(handle.stats.positions, place)
        beams = model.generate(
            **x, max_new_tokens=1, do_sample=False, num_beams=2, output_logits=True, return_dict_in_generate=True
        )
    for raw in beams.logits[0]:  # pixels are repeated by prompt
        torch.testing.assert_close(raw, expected[-1], atol=2e-5, rtol=2e-4)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)


@KINDS
@torch.no_grad()
def test_picked_units_are_tokens_of_the_unpruned_model(models: dict[str, Any], kind: str) -> None:
    """Order of tokens and of channels inside each are those of the model's own pixel shuffle."""
    model = models[kind]
    pixels = idefics3.inputs([ROW], kind)["pixel_values"]
    native = tokens(model.model.get_image_features(pixels)).reshape(TILES, 16, -1)
    for batch in (None, 4):
        with apply(model, Random(5, seed=1), encoder_batch=batch) as handle:
            found = tokens(model.model.get_image_features(pixels)).reshape(TILES, 5, -1)
            places = handle.stats.positions
        expected = native.gather(1, places[..., None].expand(-1, -1, native.shape[2]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_units_of_sixteen_patches_pick_and_merge() -> None:
    """SmolVLM2 joins 4 x 4 patches."""
    model = idefics3.model("smolvlm", side=16, scale=4)
    pixels = torch.randn(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    native = tokens(model.model.get_image_features(pixels)).reshape(3, 16, -1)
    with apply(model, Random(5)) as handle:
        found = tokens(model.model.get_image_features(pixels)).reshape(3, 5, -1)
        places = handle.stats.positions
    torch.testing.assert_close(found, native.gather(1, places[..., None].expand(-1, -1, 32)), atol=1e-5, rtol=1e-4)
    pruner = EvoPrune(3, schedule="mean")
    expected, _ = by_hand(model, pixels[0], pruner, 3, side=16, scale=4)
    with apply(model, pruner):
        found = tokens(model.model.get_image_features(pixels)).reshape(3, 3, -1)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)


def test_tokens_of_the_released_models() -> None:
    with torch.device("meta"):
        vision = {
            "image_size": 512,
            "patch_size": 16,
            "num_hidden_layers": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
        }
        text = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
        smol = SmolVLMConfig(vision_config=vision, text_config={"model_type": "llama", **text}, scale_factor=4)
        vision = {**vision, "image_size": 364, "patch_size": 14}
        first = Idefics3Config(vision_config=vision, text_config={"model_type": "llama", **text}, scale_factor=2)
        smallest = find(SmolVLMForConditionalGeneration(smol))
        largest = find(Idefics3ForConditionalGeneration(first))
    assert smallest.tokens_after([EvoPrune(0.25, schedule="mean")]) == (64, 16)  # 8 x 8 units of 4 x 4
    assert largest.tokens_after([EvoPrune(0.25)]) == (169, 42)


@torch.no_grad()
def test_features_encoded_before_are_taken(models: dict[str, Any]) -> None:
    model = models["smolvlm"]
    x = idefics3.inputs([ROW, ("b ", Picture(40, 50, 9), " c")], "smolvlm")
    images = {name: x.pop(name) for name in ("pixel_values", "pixel_attention_mask")}
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this release of transformers takes no features that were encoded before")
    with apply(model, EvoPrune(3, schedule="mean", positions="original")):
        expected = model(**x, **images).logits
        features = model.model.get_image_features(**images)
        found = model(**x, mm_encoder_outputs={"image": features}).logits
    assert torch.equal(found, expected)


@KINDS
@torch.no_grad()
def test_fewer_pixels_take_the_embeddings_at_their_places(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    pixels = idefics3.inputs([ROW], kind)["pixel_values"]
    with apply(model, Downsample(4)) as handle:
        found = tokens(model.model.get_image_features(pixels))
        assert handle.stats.tokens == (4,) * 5
    small = torch.nn.functional.interpolate(pixels[0], size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, tokens(model.model.get_image_features(small[None])), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.no_grad()
def test_frames_of_a_video_are_pictures(models: dict[str, Any], frames: int) -> None:
    model = models["smolvlm"]
    rows = [("see ", Video(frames, 24, 40, 1), " what ?"), ("and ", Video(3, 32, 32, 2), " here ?")]
    x = idefics3.inputs(rows, "smolvlm")
    assert int((x["input_ids"] == 4).sum()) == 16 * (frames + 3)
    pruner = EvoPrune(4, schedule="mean")
    with apply(model, pruner) as handle:
        found = model(**x).logits[:, -1]
        assert handle.stats.visual_tokens == (4,) * (frames + 3)
    for row, count in enumerate((frames, 3)):  # missing frames of the shorter video are zeros, which the model drops
        features, _ = by_hand(model, x["pixel_values"][row, :count], pruner, 4)
        ids = x["input_ids"][row][x["attention_mask"][row].bool()]
        expected = literal_units.logits(model, model.model.text_model, ids, features, 16)[-1]
        torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=2e-4)


@torch.no_grad()
def test_pictures_that_are_not_split_are_one_tile(models: dict[str, Any]) -> None:
    for kind, model in models.items():
        x = idefics3.inputs([ROW], kind, do_image_splitting=False)
        with apply(model, EvoPrune(0.25, schedule="mean")) as handle:
            model(**x)
            assert handle.stats.visual_tokens == (4, 4)


@KINDS
@torch.no_grad()
def test_padded_patches_are_refused_in_one_sentence(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    x = idefics3.inputs([ROW], kind)
    x["pixel_attention_mask"][0, 0, :, -4:] = 0
    native = model(**x).logits
    for pruner in (EvoPrune(4, schedule="mean"), Random(4), Downsample(4)):
        with apply(model, pruner), pytest.raises(ValueError, match=r"^8 patches of the pictures are padding"):
            model(**x)
    with apply(model, EvoPrune(1.0, schedule="mean")):
        assert torch.equal(model(**x).logits, native)


def test_a_shuffle_that_does_not_fit_is_refused() -> None:
    model = idefics3.model()
    model.config.scale_factor = 3
    with pytest.raises(UnsupportedModel, match="scale_factor=3 does not divide"):
        apply(model, EvoPrune(4))
