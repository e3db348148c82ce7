"""The front end without an engine: placeholders, hashes, room, and what is refused before the engine sees it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.cache import MultiModalProcessorOnlyCache
from vllm.multimodal.encoder_budget import MultiModalBudget

import evoprune
from evoprune.models import find
from evoprune.serve.vllm.backend import Info, TransformersMultiModalForCausalLM
from tests.families.case import Picture, Video, draw
from tests.serve.vllm import checkpoints, engines

KINDS = {"llava": ("llava", 16), "next": ("llava_next", 16), "onevision": ("llava_onevision", 12)}
CASES = [(kind, architecture) for kind, (native, _) in KINDS.items() for architecture in (native, "backend")]
SIDES = st.integers(8, 300)


@functools.cache
def front(kind: str, architecture: str, *pruners: Any, stock: bool = False, **more: Any) -> tuple[Any, Any]:
    """Return config and processor of a server."""
    folder = checkpoints.random(kind)[0]
    plain = {name: value for name, value in engines.SETTINGS.items() if name != "disable_log_stats"}
    model_impl = "transformers" if stock and architecture == "backend" else "auto"
    arguments = EngineArgs(
        model=folder, hf_overrides={} if stock else engines.overrides(architecture, *pruners), model_impl=model_impl,
        limit_mm_per_prompt={"image": 4}, enable_mm_embeds=True, **{**plain, **{k: _plain(v) for k, v in more.items()}},
    )  # fmt: skip
    config = arguments.create_engine_config()
    return config, MULTIMODAL_REGISTRY.create_processor(config.model_config)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, tuple) else value


def pruned(kind: str, architecture: str, keep: int | float | None = None, **more: Any) -> tuple[Any, Any]:
    return front(kind, architecture, evoprune.EvoPrune(keep=KINDS[kind][1] if keep is None else keep), **more)


def processed(processor: Any, text: str, data: Mapping[str, Any], cache: Any = None, **arguments: Any) -> Any:
    """Return what the server makes of a prompt; `arguments` are the request's `mm_processor_kwargs`."""
    items = processor.info.parse_mm_data(dict(data))
    return processor(text, items, hf_processor_mm_kwargs=arguments, cache=cache)


def lengths(found: Any) -> dict[str, list[int]]:
    return {name: [one.length for one in places] for name, places in found["mm_placeholders"].items()}


def asked(size: tuple[int, int] = (20, 90)) -> tuple[str, dict[str, Any]]:
    return "a <image> b", {"image": [draw(Picture(*size))]}


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_placeholders_are_the_tokens_of_the_family(kind: str, architecture: str) -> None:
    _, processor = pruned(kind, architecture)
    family, pruner = find(checkpoints.random(kind)[1]), evoprune.EvoPrune(keep=KINDS[kind][1])
    sizes = [(20, 90), (17, 19), (61, 61)]
    text, data = "x <image> y <image> z <image> .", {"image": [draw(Picture(*size)) for size in sizes]}
    segments = family.segments({"pixel_values": torch.empty(3, 0), "image_sizes": sizes}, "image", [pruner])
    wanted = [one.count.short for one in segments or []]
    found = processed(processor, text, data)
    assert lengths(found) == {"image": wanted}
    assert len(found["prompt_token_ids"]) == sum(wanted) + len("x  y  z  .")
    assert len(set(wanted)) == (1 if kind == "llava" else 3)


@pytest.mark.parametrize("architecture", ["llava_onevision", "backend"])
def test_placeholders_of_clips(architecture: str) -> None:
    _, processor = pruned("onevision", architecture)
    frames = (1, 5, 3) if architecture != "backend" else (5, 5, 5)  # whose videos of one request must be as long
    clips = [draw(Video(each, 30, 40)) for each in frames]
    found = processed(processor, "<video> <video> <image> <video>", {"video": clips, "image": [draw(Picture(20, 90))]})
    assert lengths(found) == {"video": [12 * each + 1 for each in frames], "image": [4 * 12 + 1]}


@pytest.mark.parametrize(("kind", "architecture"), [*CASES[:4], ("nine", "llava_onevision"), ("nine", "backend")])
@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES)
def test_a_budget_of_everything_has_the_counts_of_the_stock_class(
    kind: str, architecture: str, height: int, width: int
) -> None:
    _, processor = front(kind, architecture, evoprune.EvoPrune(keep=1.0))
    _, stock = front(kind, architecture, stock=True)
    assert not isinstance(stock, type(processor))
    ours, theirs = processor.info, stock.info
    size = {"image_height": height, "image_width": width}
    if architecture == "backend":
        assert theirs._get_num_mm_tokens(image_sizes=([height, width],))["num_image_tokens"][0] == (
            ours.get_num_image_tokens(**size)
        )
    else:
        assert theirs.get_num_image_tokens(**size) == ours.get_num_image_tokens(**size)


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_options_and_budgets_enter_the_hash(kind: str, architecture: str) -> None:
    text, data = asked()
    keep = KINDS[kind][1]
    servers = [
        front(kind, architecture, evoprune.EvoPrune(keep=keep)),
        front(kind, architecture, evoprune.EvoPrune(keep=keep, critical_ratio=0.5)),
        front(kind, architecture, evoprune.EvoPrune(keep=0.5)),
        front(kind, architecture, evoprune.FasterVLM(keep=keep)),
        front(kind, architecture, evoprune.EvoPrune(keep=keep), mm_processor_kwargs=(("evoprune_keep", 20),)),
    ]
    found = [processed(processor, text, data)["mm_hashes"]["image"][0] for _, processor in servers]
    _, processor = servers[0]
    requests = [16, 17, 0.5, 1.0, 0.75]
    if kind == "llava":
        requests += [64]
    found += [processed(processor, text, data, evoprune_keep=one)["mm_hashes"]["image"][0] for one in requests]
    assert len(set(found)) == len(found)
    assert processed(processor, text, data)["mm_hashes"]["image"][0] == found[0]


@pytest.mark.parametrize("architecture", ["llava_next", "backend"])
@pytest.mark.parametrize("cached", [False, True])
def test_names_that_clients_give_say_nothing_of_options_nor_without_a_cache_of_pixels(
    architecture: str, cached: bool
) -> None:
    def named(keep: int, picture: Picture) -> str:
        config, processor = front("next", architecture, evoprune.EvoPrune(keep=keep))
        items = processor.info.parse_mm_data({"image": [draw(picture)]})
        cache = MultiModalProcessorOnlyCache(config.model_config) if cached else None
        found = processor("a <image> b", items, {"image": ["mine"]}, cache=cache)
        return found["mm_hashes"]["image"][0]

    first = named(16, Picture(20, 90, 1))
    assert first == named(16, Picture(20, 90, 1)) and first != named(17, Picture(20, 90, 1))
    # With a cache the first picture of a name is taken for all others, placeholders and features alike.
    assert (first == named(16, Picture(61, 61, 2))) is cached


def test_one_token_and_a_share_of_one_are_two_budgets() -> None:
    _, processor = front("llava", "llava", evoprune.FasterVLM(keep=16))
    text, data = asked()
    cache = MultiModalProcessorOnlyCache(front("llava", "llava", evoprune.FasterVLM(keep=16))[0].model_config)
    found = [processed(processor, text, data, cache, evoprune_keep=one) for one in (1, 1.0, 1, 1.0)]
    assert [lengths(one)["image"] for one in found] == [[1], [64], [1], [64]]
    assert len({one["mm_hashes"]["image"][0] for one in found}) == 2


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_the_processor_cache_changes_nothing(kind: str, architecture: str) -> None:
    config, processor = pruned(kind, architecture)
    cache = MultiModalProcessorOnlyCache(config.model_config)
    two = "a <image> <image> b", {"image": [draw(Picture(20, 90)), draw(Picture(32, 32, 1))]}
    requests: list[Any] = [
        (asked(), {}), (two, {}), (asked(), {"evoprune_keep": 0.5}), (asked(), {}), (two, {"evoprune_keep": 0.5}),
        (asked((32, 32)), {"evoprune_keep": 1.0}), (two, {}),
    ]  # fmt: skip
    for (text, data), arguments in requests:
        plain = processed(processor, text, data, **arguments)
        kept = processed(processor, text, data, cache, **arguments)
        assert plain["prompt_token_ids"] == kept["prompt_token_ids"] and lengths(plain) == lengths(kept)
        for one, other in zip(plain["mm_kwargs"]["image"], kept["mm_kwargs"]["image"], strict=True):
            assert one["evoprune_keep_image"].data.tolist() == other["evoprune_keep_image"].data.tolist()


BAD = [
    0,
    -5,
    65,
    10**9,
    10**400,
    0.0,
    1.5,
    -0.5,
    math.nan,
    math.inf,
    True,
    False,
    "16",
    "abc",
    "",
    [16],
    {},
    [],
    1 + 2j,
]


@pytest.mark.parametrize("architecture", ["llava", "backend"])
@pytest.mark.parametrize("keep", BAD, ids=lambda keep: repr(keep)[:8])
def test_what_is_no_budget_is_refused_in_the_front_end(architecture: str, keep: Any) -> None:
    _, processor = pruned("llava", architecture)
    text, data = asked()
    with pytest.raises(ValueError, match="keep"):
        processed(processor, text, data, evoprune_keep=keep)
    assert lengths(processed(processor, text, data)) == {"image": [16]}


@pytest.mark.parametrize("architecture", ["llava", "backend"])
def test_a_budget_out_of_reach_names_the_smallest(architecture: str) -> None:
    _, processor = pruned("llava", architecture)
    text, data = asked()
    with pytest.raises(ValueError, match="smallest reachable keep is 16"):
        processed(processor, text, data, evoprune_keep=2)


@pytest.mark.parametrize("architecture", ["llava_onevision", "backend"])
def test_a_picture_that_pruning_would_make_longer_is_refused(architecture: str) -> None:
    _, processor = pruned("onevision", architecture)
    text, data = asked((64, 64))
    with pytest.raises(ValueError, match=r"64 x 64 pixels has 139 tokens.*choose keep <= 13"):
        processed(processor, text, data, evoprune_keep=20)


def test_a_budget_for_two_pruners_is_refused() -> None:
    _, processor = front("llava", "llava", evoprune.EvoPrune(keep=32), evoprune.DivPrune(keep=8))
    text, data = asked()
    assert lengths(processed(processor, text, data)) == {"image": [8]}
    with pytest.raises(ValueError, match="evoprune and divprune"):
        processed(processor, text, data, evoprune_keep=16)


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_features_that_a_client_made_keep_their_number(kind: str, architecture: str) -> None:
    _, processor = pruned(kind, architecture)
    made = torch.rand(2, 11, 64)
    found = processed(processor, "a <image> b <image>", {"image": made})
    assert lengths(found) == {"image": [11, 11]}
    assert all(one["image_embeds"].data.shape == (11, 64) for one in found["mm_kwargs"]["image"])


@pytest.mark.parametrize(("kind", "architecture"), CASES)
@pytest.mark.parametrize("keep", [16, 20, 0.5])
def test_there_is_room_for_every_picture_that_is_served(kind: str, architecture: str, keep: int | float) -> None:
    config, processor = pruned(kind, architecture, keep)
    room = MultiModalBudget(config, MULTIMODAL_REGISTRY)
    size = processor.info.get_image_size_with_most_features()
    found = processed(processor, "<image>", {"image": [draw(Picture(size.height, size.width))]})
    most = room.mm_max_toks_per_item["image"]
    assert lengths(found)["image"] == [most]

    @settings(max_examples=200, deadline=None)
    @given(height=SIDES, width=SIDES)
    def smaller(height: int, width: int) -> None:
        try:
            tokens = processor.info.get_num_image_tokens(image_width=width, image_height=height)
        except ValueError:  # more tokens than natively: refused
            return
        assert tokens <= most

    smaller()


def test_the_budget_in_the_servers_own_arguments_is_the_servers() -> None:
    given_ = {"mm_processor_kwargs": (("evoprune_keep", 20),)}
    config, processor = pruned("llava", "llava", 16, **given_)
    text, data = asked()
    assert lengths(processed(processor, text, data)) == {"image": [20]}
    assert lengths(processed(processor, text, data, evoprune_keep=30)) == {"image": [30]}
    assert MultiModalBudget(config, MULTIMODAL_REGISTRY).mm_max_toks_per_item["image"] == 20


REFUSED = {
    "qwen2_5_vl": transformers.Qwen2_5_VLConfig, "qwen3_vl": transformers.Qwen3VLConfig,
    "idefics3": transformers.Idefics3Config, "gemma3": transformers.Gemma3Config,
    "internvl": transformers.InternVLConfig, "llava_next_video": transformers.LlavaNextVideoConfig,
    "pixtral": lambda: transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig()),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_server_of_another_family_does_not_start(name: str) -> None:
    config = REFUSED[name]()
    config.evoprune = evoprune.EvoPrune(keep=16).to_dict()
    context = SimpleNamespace(model_config=SimpleNamespace(hf_config=config), tokenizer=None)
    with pytest.raises(ValueError, match=rf"{name}.*LLaVA-OneVision \(model_type llava_onevision\).*evoprune\.apply"):
        Info(context)
    with pytest.raises(ValueError, match=name):
        TransformersMultiModalForCausalLM(vllm_config=SimpleNamespace(model_config=context.model_config))
