"""Presets: as large as the published models, with as many tokens, and random weights that keep numbers apart."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from evoprune.bench import memory
from evoprune.bench.build import build, processors, skeleton
from evoprune.bench.inputs import Maker, Shape
from evoprune.bench.presets import get
from evoprune.bench.published import PRESETS
from evoprune.models import find
from tests.bench.small import small

# Weights of the models on the hub, tied ones once; written out for the test.
PUBLISHED = {
    "llava-1.5-7b": 7_063_427_072, "llava-1.5-13b": 13_350_839_296, "llava-next-7b": 7_063_431_168,
    "llava-video-7b": 8_030_348_832, "llava-onevision-7b": 8_030_348_832, "llava-onevision-0.5b": 893_618_208,
    "qwen2-vl-2b": 2_208_985_600, "qwen2.5-vl-7b": 8_292_166_656, "qwen2.5-vl-3b": 3_754_622_976,
    "qwen3-vl-8b": 8_767_123_696, "qwen3-vl-4b": 4_437_815_808, "qwen3-vl-2b": 2_127_532_032,
    "internvl3-8b": 7_944_373_760, "internvl3-1b": 938_158_208, "smolvlm-500m": 507_482_304,
}  # fmt: skip


@functools.cache
def empty(name: str, stages: str = "all") -> Any:
    return skeleton(get(name), stages)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_weights_of_the_published_model(name: str) -> None:
    preset = get(name)
    counted = sum(weight.numel() for weight in empty(name).parameters())
    assert counted == preset.parameters
    assert counted == pytest.approx(PUBLISHED[name], rel=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_the_encoder_alone_has_the_whole_tower_and_the_projector_at_its_width(name: str) -> None:
    encoder, whole = find(empty(name, "encoder")), find(empty(name))
    for part in ("tower", "projector"):
        shapes = [[tuple(weight.shape) for weight in getattr(one, part).parameters()] for one in (encoder, whole)]
        assert shapes[0] == shapes[1]
    left = sum(weight.numel() for weight in encoder.language_model.parameters())
    assert left < 1e6 < sum(weight.numel() for weight in whole.language_model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_a_picture_or_frame_becomes_as_many_tokens_as_documented(name: str) -> None:
    preset = get(name)
    maker = Maker(find(empty(name, "encoder")), *processors(preset), size=preset.picture)
    shape = Shape(1) if preset.frames is None else Shape(None, 2)
    pixels = maker.preprocess(maker.raw(shape, 0), torch.device("cpu"), torch.float32)
    ends = 0 if preset.frames is None else 1  # a newline behind the video
    assert maker.placeholders(shape, pixels) == preset.tokens * (shape.frames or 1) + ends


def test_an_unknown_preset_is_told_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'llava-vide-7b': did you mean 'llava-video-7b'\? choose"):
        get("llava-vide-7b")


def test_random_weights_are_seeded_and_keep_tokens_apart() -> None:
    preset = small("llava-1.5-7b")
    model, again, other = build(preset), build(preset), build(preset, seed=1)
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    first, second, third = (one.model.get_image_features(pixels).pooler_output[0] for one in (model, again, other))
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert first.isfinite().all() and 0.01 < first.std() < 100
    assert torch.pdist(first).min() > 1e-3  # no two tokens alike
    for weight in model.parameters():
        assert (weight.isfinite().all() and weight.ndim == 1) or weight.unique(dim=0).shape[0] == weight.shape[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_stay_finite_in_half_precision(dtype: torch.dtype) -> None:
    model = build(small("qwen2.5-vl-7b"), dtype=dtype)
    assert model.dtype == dtype
    ids = torch.arange(40)[None]
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_tied_weights_stay_tied() -> None:
    model = build(small("llava-onevision-0.5b"))
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_attention_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'flash_atention' cannot be used here \(.*\): choose sdpa or"):
        build(small("llava-1.5-7b"), attention="flash_atention")


def test_a_preset_beyond_the_memory_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 3 * 2**30)
    memory.check("llava-1.5-7b", 3 * 2**30, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"llava-1.5-7b needs about 3.5 GiB of memory on cpu and 3.0 GiB are"):
        memory.check("llava-1.5-7b", 7 * 2**29, torch.device("cpu"))


def test_needed_memory_grows_with_what_is_shown() -> None:
    preset = get("llava-video-7b")
    whole = empty(preset.name)
    maker = Maker(find(whole), *processors(preset), size=preset.picture)
    float32, bfloat16 = (memory.weights(whole, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 2 * bfloat16 == float32 and float32 >= 4 * preset.parameters

    def needed(**shape: Any) -> int:
        settings = [shape.pop(name, usual) for name, usual in (("stages", "all"), ("attention", "sdpa"))]
        return memory.activations(maker.family, maker, Shape(None, **shape), torch.bfloat16, *settings)

    assert 30 * needed(frames=2) < needed(frames=64) < 34 * needed(frames=2)
    assert needed(frames=8, batch=2) > 1.9 * needed(frames=8)
    assert needed(frames=8, attention="eager") > needed(frames=8, stages="encoder")
