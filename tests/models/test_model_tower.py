"""The tower under hooks against the literal loop, and what must not change in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evoprune import flops
from evoprune.apply import apply
from evoprune.models import UnsupportedModel
from evoprune.ops.kernels import reference_path
from evoprune.pruners import Downsample, EvoPrune, Random, UniformGrid
from tests import builders
from tests.models import literal

VARIANTS = [
    {},
    {"schedule": "mean"},
    {"schedule": "skip:0"},
    {"attention": False},
    {"diversity": 0.0},
    {"order": "tome"},
    {"features": "keys"},
    {"proportional_attention": True},
    {"proportional_attention": True, "attention": False, "order": "tome", "weights": "equal"},
    {"schedule": (10, 0, 20, 0, 5)},
]


def pixels(images: int = 2) -> torch.Tensor:
    return builders.inputs(["<image> " * images], list(range(images)))["pixel_values"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_hooks_compute_what_the_literal_loop_computes(attention: str, settings: dict[str, Any]) -> None:
    model = builders.model(attention=attention)
    keep = 64 - sum(settings["schedule"]) if isinstance(settings.get("schedule"), tuple) else 16
    pruner = EvoPrune(keep, **settings)
    with torch.no_grad():
        expected = model.model.multi_modal_projector(literal.tower(model, pixels(), pruner, 5)[:, 1:])
        with apply(model, pruner) as handle:
            found = torch.stack(list(model.model.get_image_features(pixels()).pooler_output))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    assert found.shape[1] == handle.stats.tokens[-1] == keep


def test_other_backends_find_their_own_name_in_the_config() -> None:
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = []

    def base(module: Any, *args: Any, **kwargs: Any) -> Any:  # flash attention loads what this name says
        seen.append(module.config._attn_implementation)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *args, **kwargs)

    AttentionInterface.register("flash_attention_9", base)
    model, reference = builders.model(), builders.model()
    model.model.vision_tower.config._attn_implementation_internal = "flash_attention_9"
    with torch.no_grad():
        with reference_path(), apply(reference, EvoPrune(16)):  # the backend by itself, not in one pass
            expected = torch.stack(list(reference.model.get_image_features(pixels()).pooler_output))
        with apply(model, EvoPrune(16)):
            found = torch.stack(list(model.model.get_image_features(pixels()).pooler_output))
    assert seen == ["flash_attention_9"] * 5
    assert torch.equal(found, expected)


def test_tokens_of_each_layer_are_those_of_the_schedule(llava: Any) -> None:
    with apply(llava, EvoPrune(16)) as handle:
        llava.model.get_image_features(pixels())
        assert handle.stats.tokens == (64, 32, 32, 16, 16)
        assert handle.stats.visual_tokens == (16, 16)
        assert handle.stats.flops == 2 * handle.stats._plan.fixed.flops


@pytest.mark.parametrize("settings", [{}, {"attention": False}], ids=str)
def test_flops_are_those_that_run(settings: dict[str, Any]) -> None:
    model = builders.model(attention="eager")
    merges, width, patch = (0, 32, 0, 16, 0), 32, 3 * builders.PATCH**2
    with torch.no_grad(), apply(model, EvoPrune(16, **settings)) as handle:
        with FlopCounterMode(display=False) as counter:
            model.model.vision_tower(pixels(1))
        expected = handle.stats.flops + flops.linear(64, patch, width)
        selection = flops.selection(64, merges, width, prefix=1, importance=settings.get("attention", True))
    assert handle.stats.selection_flops == selection
    expected += selection
    # Received attention also weighs the rows of the matrix: heads x T^2, left out of the shape model.
    rows = sum(2 * 4 * tokens**2 for tokens in (65, 33)) if not settings else 0
    assert counter.get_total_flops() == expected + rows


def test_batch_of_images_equals_single_images(llava: Any) -> None:
    many = pixels(8)
    with apply(llava, EvoPrune(16)), torch.no_grad():
        together = llava.model.get_image_features(many).pooler_output
        for image, features in zip(many, together, strict=True):
            alone = llava.model.get_image_features(image[None]).pooler_output[0]
            torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ran_before", [False, True])
def test_hidden_states_hold_the_merged_tokens(ran_before: bool) -> None:
    model = builders.model()
    if ran_before:  # transformers installs its capturing hooks at the first run
        model.model.vision_tower(pixels(), output_hidden_states=True)
    with apply(model, EvoPrune(16)):
        states = model.model.vision_tower(pixels(), output_hidden_states=True).hidden_states
    assert [state.shape[1] - 1 for state in states] == [64, 64, 32, 32, 16, 16, 16]


def test_unread_layers_run_only_when_all_hidden_states_are_asked_for(llava: Any) -> None:
    calls = []
    last = llava.model.vision_tower.encoder.layers[-1]
    hook = last.mlp.register_forward_hook(lambda *_: calls.append(1))
    x = builders.inputs(["<image> what"], [1])
    with apply(llava, Random(16)):
        llava(**x)
        llava.generate(**x, max_new_tokens=2)
        llava(**x, output_hidden_states=True)  # the language model's: the tower's last is still unread
        assert calls == []
        states = llava.model.vision_tower(x["pixel_values"], output_hidden_states=True).hidden_states
        assert calls == [1] and not torch.equal(states[-1], states[-2])
        llava.model.get_image_features(x["pixel_values"], output_hidden_states=True)
        assert calls == [1, 1]
    llava(**x)
    assert len(calls) == 3
    hook.remove()


def test_layers_that_do_not_merge_take_no_detour(llava: Any) -> None:
    layers = llava.model.vision_tower.encoder.layers
    with apply(llava, EvoPrune(16)):
        tapped = [i for i, layer in enumerate(layers) if "_evoprune_tap" in layer.self_attn.__dict__]
        names = [layer.self_attn.config._attn_implementation for layer in layers]
    assert tapped == [1, 3]
    assert names == ["sdpa", "evoprune_sdpa", "sdpa", "evoprune_sdpa", "sdpa", "sdpa"]
    with apply(llava, EvoPrune(16, attention=False)):
        assert not any("_evoprune_tap" in layer.self_attn.__dict__ for layer in layers)


@pytest.mark.parametrize("pruner", [Random(16, seed=3), UniformGrid(16)])
def test_feature_pruners_pick_whole_features(llava: Any, pruner: Any) -> None:
    with torch.no_grad():
        full = torch.stack(list(llava.model.get_image_features(pixels()).pooler_output))
        with apply(llava, pruner) as handle:
            kept = torch.stack(list(llava.model.get_image_features(pixels()).pooler_output))
            places = handle.stats.positions
    assert places is not None and places.shape == (2, 16)
    expected = full.gather(1, places[..., None].expand(-1, -1, full.shape[2]))
    torch.testing.assert_close(kept, expected, atol=1e-6, rtol=1e-6)


def test_downsample_shows_the_tower_a_smaller_picture(llava: Any) -> None:
    small = torch.nn.functional.interpolate(pixels(), (16, 16), mode="bilinear", antialias=True)
    vision = llava.model.vision_tower
    with torch.no_grad():
        states = vision(small, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        expected = llava.model.multi_modal_projector(states[-2][:, 1:])
        with apply(llava, Downsample(16)) as handle:
            found = torch.stack(list(llava.model.get_image_features(pixels()).pooler_output))
            assert handle.stats.sources is not None and handle.stats.sources.shape == (2, 64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_sources_and_positions_belong_together(llava: Any) -> None:
    for pruners in (EvoPrune(16), EvoPrune(16, order="tome"), [EvoPrune(32), Random(8)], [Downsample(36), EvoPrune(9)]):
        with apply(llava, pruners) as handle:
            llava.model.get_image_features(pixels())
            sources, places = handle.stats.sources, handle.stats.positions
        assert sources is not None and places is not None
        keep = places.shape[1]
        assert int(sources.min()) >= (-1 if isinstance(pruners, list) else 0) and int(sources.max()) == keep - 1
        # The patch on which a survivor stands is one of those that it stands for.
        assert torch.equal(sources.gather(1, places), torch.arange(keep).expand(2, keep))


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("pruner", [EvoPrune(16), Random(16), Downsample(16)])
def test_cls_stays_with_full_selection(strategy: str, pruner: Any) -> None:
    model = builders.model(strategy=strategy)
    x = builders.inputs(["USER: <image> what"], [1], strategy)
    extra = int(strategy == "full")
    with apply(model, pruner) as handle, torch.no_grad():
        found = model(**x)
        assert handle.stats.visual_tokens == (16 + extra,)
    assert found.logits.shape[1] == x["input_ids"].shape[1] - 48


@torch.no_grad()
def test_a_siglip_tower_has_no_cls() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4, image_size=32, patch_size=4
    )
    settings = builders.config("full").to_dict() | {"vision_config": vision.to_dict()}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(LlavaConfig(**settings), attn_implementation="sdpa").eval()
    x = builders.inputs(["a <image> b <image> what"], [1, 2])
    before = model(**x).logits
    with apply(model, EvoPrune(1.0)):
        assert torch.equal(model(**x).logits, before)
    for pruner in (EvoPrune(16), EvoPrune(16, proportional_attention=True), Random(16), Downsample(16)):
        with apply(model, pruner) as handle:
            assert model(**x).logits.shape[1] == x["input_ids"].shape[1] - 2 * 48
            assert handle.stats.visual_tokens == (16, 16)
            places, sources = handle.stats.positions, handle.stats.sources
        assert places is not None and sources is not None and sources.shape == (2, 64)
        assert torch.equal(sources.gather(1, places), torch.arange(16).expand(2, 16))
    assert torch.equal(model(**x).logits, before)
    settings["vision_feature_select_strategy"] = "default"
    model = LlavaForConditionalGeneration._from_config(LlavaConfig(**settings))
    with pytest.raises(UnsupportedModel, match="drops the first token, which is a patch"):
        apply(model, EvoPrune(16))


def test_several_feature_layers_merge_before_the_earliest() -> None:
    model = builders.model(feature_layer=-2)
    model.model.multi_modal_projector.linear_1 = torch.nn.Linear(64, 32)
    model.config.vision_feature_layer = [-3, -1]  # hidden states 4 and 6: merging in layers 0..3
    with apply(model, EvoPrune(16)) as handle:
        features = model.model.get_image_features(pixels()).pooler_output
        assert handle.stats.tokens == (64, 32, 32, 16, 16, 16) and features[0].shape[0] == 16
    model.config.vision_feature_layer = [0, -1]
    with pytest.raises(ValueError, match="nothing can merge before the embeddings"):
        apply(model, EvoPrune(16))
    with apply(model, Random(16)):
        assert len(model.model.get_image_features(pixels()).pooler_output[0]) == 16


def test_feature_importance_is_the_cls_row_even_behind_merges(llava: Any) -> None:
    class Watching(Random):
        needs = frozenset(["importance"])

        def select(self, view: Any, keep: int) -> torch.Tensor:
            seen.append(view.importance)
            return super().select(view, keep)

    seen: list[torch.Tensor] = []
    with torch.no_grad():
        with apply(llava, Watching(16)):
            llava.model.get_image_features(pixels())
        states = llava.model.vision_tower(pixels(), output_hidden_states=True).hidden_states
        attention = llava.model.vision_tower.encoder.layers[4].self_attn
        x = llava.model.vision_tower.encoder.layers[4].layer_norm1(states[4])
        q, k = (part(x).unflatten(2, (4, -1)).transpose(1, 2) for part in (attention.q_proj, attention.k_proj))
        row = (q[:, :, :1] @ k.transpose(2, 3) * attention.head_dim**-0.5).softmax(-1).mean(1)[:, 0, 1:]
        torch.testing.assert_close(seen[0], row, atol=1e-6, rtol=1e-5)
        with apply(llava, [EvoPrune(32, schedule="last:1"), Watching(16)]):
            llava.model.get_image_features(pixels())
        assert seen[1].shape == (2, 32)  # added up over what merged in the very layer
        torch.testing.assert_close(seen[1].sum(1), row.sum(1), atol=1e-5, rtol=1e-5)


def test_tower_compiles_to_one_graph() -> None:
    model = builders.model(layers=4)
    with torch.no_grad(), apply(model, EvoPrune(16, schedule="last:2", proportional_attention=True)):
        tower = model.model.vision_tower
        expected = tower(pixels()).last_hidden_state
        compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(pixels()).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_pictures_of_another_size_are_refused_in_one_sentence(llava: Any) -> None:
    wide = torch.rand(1, 3, 48, 48)
    with apply(llava, EvoPrune(16)), pytest.raises(ValueError, match=r"144 patch tokens reach a layer.*planned for 64"):
        llava.model.vision_tower(wide, interpolate_pos_encoding=True)
    llava.model.get_image_features(pixels())
