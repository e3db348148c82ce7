"""Counts from a config alone are those of the model: what its encoder makes under `evoprune.apply`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import evoprune
from evoprune.models import find
from evoprune.serve.counts import Counts, check_family
from evoprune.serve.options import Options
from tests import builders
from tests.families import llava_next, llava_onevision

MODELS = {"llava": builders.model, "next": llava_next.model, "onevision": llava_onevision.model}
SIDES = st.integers(8, 200)
PRUNERS = [
    (evoprune.EvoPrune(keep=16),), (evoprune.EvoPrune(keep=0.5),), (evoprune.FasterVLM(keep=1),),
    (evoprune.AdaptivePool(keep=12),), (evoprune.EvoPrune(keep=20), evoprune.DivPrune(keep=5)),
    (evoprune.EvoPrune(keep=1.0),),
]  # fmt: skip


@functools.cache
def model(kind: str) -> Any:
    return MODELS[kind]()


@functools.cache
def counts(kind: str, pruners: tuple[Any, ...]) -> Counts:
    return Counts(model(kind).config, Options.of(pruners))


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=80, deadline=None)
@given(height=SIDES, width=SIDES, pruners=st.sampled_from(PRUNERS))
def test_a_picture_has_the_tokens_of_the_models_family(kind: str, height: int, width: int, pruners: Any) -> None:
    arguments = {"pixel_values": torch.empty(1, 0), "image_sizes": [[height, width]]}
    family = find(model(kind))
    wanted = outcome(lambda: (family.segments(arguments, "image", pruners) or [])[0].count)
    assert outcome(lambda: counts(kind, pruners).image(height, width).count) == wanted


def outcome(count: Callable[[], Any]) -> Any:
    """Return a count, or the words in which it is refused."""
    try:
        return count()
    except ValueError as error:
        return str(error)


def encoded(kind: str, pruners: Any, pictures: list[Any]) -> list[int]:
    """Return the rows that the model makes of each picture."""
    module = {"llava": "tests.families.llava", "next": llava_next, "onevision": llava_onevision}[kind]
    if kind == "llava":
        pixels = builders.processor().image_processor(pictures, return_tensors="pt")
    else:
        pixels = module.processor().image_processor(pictures, return_tensors="pt")  # type: ignore[attr-defined]
    arguments = {name: value for name, value in pixels.items() if name in ("pixel_values", "image_sizes")}
    with torch.inference_mode(), evoprune.apply(model(kind), list(pruners)):
        return [len(one) for one in model(kind).get_image_features(**arguments).pooler_output]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pruners", PRUNERS, ids=lambda pruners: "+".join(f"{one.name}-{one.keep}" for one in pruners))
@settings(max_examples=5, deadline=None)
@given(height=SIDES, width=SIDES)
def test_a_picture_has_the_tokens_that_the_encoder_makes(kind: str, pruners: Any, height: int, width: int) -> None:
    from PIL import Image

    found = counts(kind, pruners)
    try:
        wanted = found.image(height, width).count.short
    except ValueError:
        return  # refused: the test above compares the messages
    if kind == "onevision":
        # transformers cuts a picture into tiles where it is alone, as it is here
        assert encoded(kind, pruners, [Image.new("RGB", (width, height))]) == [wanted]
    else:
        assert encoded(kind, pruners, [Image.new("RGB", (width, height))] * 2) == [wanted] * 2


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("keep", [7, 0.5, 1.0, 16])
def test_a_video_has_the_tokens_that_the_encoder_makes(frames: int, keep: int | float) -> None:
    pruners = (evoprune.EvoPrune(keep=keep),)
    clip = torch.rand(1, frames, 3, llava_onevision.PIXELS, llava_onevision.PIXELS)
    with torch.inference_mode():
        (native,) = model("onevision").get_video_features(clip).pooler_output
        with evoprune.apply(model("onevision"), list(pruners)):
            (made,) = model("onevision").get_video_features(clip).pooler_output
    count = counts("onevision", pruners).video(frames).count
    later = count.full - len(native)  # transformers 5.17 puts the newline behind a video later
    assert later in (0, 1) and count.short == len(made) + later


def test_another_budget_has_counts_of_its_own() -> None:
    found = counts("llava", (evoprune.EvoPrune(keep=16),))
    assert found.at(20).image(9, 9).count.short == 20 and found.image(9, 9).count.short == 16
    assert found.at(1.0).image(9, 9).count.short == 64 and not found.at(1.0).pruned and found.pruned
    with pytest.raises(ValueError, match="smallest reachable keep is 16"):
        found.at(2)
    with pytest.raises(ValueError, match="above the 64 tokens"):
        found.at(65)


def test_counting_loads_no_weights() -> None:
    skeleton = counts("llava", (evoprune.EvoPrune(keep=16),)).family.model
    assert {weight.device.type for weight in skeleton.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "config",
    [
        transformers.Qwen2_5_VLConfig, transformers.Qwen3VLConfig, transformers.Idefics3Config,
        transformers.Gemma3Config, transformers.InternVLConfig, transformers.LlavaNextVideoConfig,
        lambda: transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig()),
    ],
)  # fmt: skip
def test_a_family_that_cannot_be_served_is_refused_with_those_that_can(config: Any) -> None:
    known = r"LLaVA-1\.5 \(model_type llava\), LLaVA-NeXT \(model_type llava_next\), LLaVA-OneVision"
    with pytest.raises(ValueError, match=known):
        check_family(config())
    with pytest.raises(ValueError, match=known):
        Counts(config(), Options.of([evoprune.EvoPrune(keep=16)]))
