"""One reversible call: what it refuses, what it leaves behind, and that it is all undone."""

from __future__ import annotations

import copy
import json
import threading
from typing import Any

import pytest
import torch

from evoprune.apply import apply
from evoprune.models import FAMILIES, UnsupportedModel, find
from evoprune.pruners import (
    DART,
    AdaptivePool,
    CDPruner,
    DivPrune,
    Downsample,
    EvoPrune,
    FasterVLM,
    FastV,
    FitPrune,
    IDPruner,
    KeepFirst,
    Random,
    ToMe,
    UniformGrid,
    VisionZip,
    VisPruner,
)
from evoprune.recipes import Identity, Recipe
from tests import builders

TEXTS = ["USER: <image> what is this ? ASSISTANT:", "a <image> b <image> what", "what is a dog ?"]
ALL = [EvoPrune(16), EvoPrune(16, positions="original"), Random(16), UniformGrid(16), Downsample(16)]
ALL += [[Downsample(36), EvoPrune(18), Random(9)], ToMe(16), DivPrune(16), [ToMe(32), DivPrune(8)], FasterVLM(16)]
ALL += [VisPruner(16), [EvoPrune(32), VisPruner(8)]]
FITTED = FitPrune(Recipe(64, (40, 12), Identity("llava", 32, 64, 2)))
ALL += [FITTED, [EvoPrune(32), FITTED], FastV(16, layer=1), [EvoPrune(32), DART(16, layer=1)]]
ALL += [VisionZip(16), VisionZip(16, positions="original"), [EvoPrune(32), VisionZip(8)]]
ALL += [CDPruner(16, text_tower="embeddings"), IDPruner(16), [EvoPrune(32), CDPruner(8, text_tower="embeddings")]]
ALL += [AdaptivePool(16), KeepFirst(16), [EvoPrune(32), AdaptivePool(10)]]


@pytest.fixture
def x() -> dict[str, torch.Tensor]:
    return builders.inputs(TEXTS, [1, 2, 3])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_keep_all_and_remove_are_bit_identical(x: Any, attention: str) -> None:
    model = builders.model(attention=attention)
    before = model(**x).logits
    for pruner in (
        EvoPrune(1.0),
        EvoPrune(64),
        Random(64),
        UniformGrid(1.0),
        Downsample(64),
        [EvoPrune(64), Random(64)],
    ):
        with apply(model, pruner) as handle:
            assert torch.equal(model(**x).logits, before)
            assert handle.stats.tokens == (64,) * 5 and handle.stats.visual_tokens == (64,) * 3
        assert torch.equal(model(**x).logits, before)
    for pruner in ALL:
        handle = apply(model, pruner)
        assert not torch.equal(model(**x).logits[:, -1], before[:, -1])
        handle.remove()
        handle.remove()
        assert torch.equal(model(**x).logits, before)


@torch.no_grad()
def test_nothing_of_the_model_is_left_changed(x: Any) -> None:
    def snapshot() -> list[Any]:
        return [
            (name, sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks), id(m.__dict__.get("config")))
            for name, m in model.named_modules()
        ]

    model = builders.model()
    model(**x, output_hidden_states=True)
    before = snapshot()
    for pruner in ALL:
        with apply(model, pruner):
            assert snapshot() != before
            model.generate(**x, max_new_tokens=2)
        assert snapshot() == before


@pytest.mark.parametrize("pruner", ALL, ids=repr)
@torch.no_grad()
def test_batch_of_eight_equals_singles(llava: Any, pruner: Any) -> None:
    texts = [f"USER: {' a' * i} <image> what" + " <image>" * (i % 3 == 0) for i in range(8)]
    pictures = [[10 * i + j for j in range(1 + (i % 3 == 0))] for i in range(8)]
    with apply(llava, pruner):
        many = llava(**builders.inputs(texts, [seed for seeds in pictures for seed in seeds])).logits
        for row, (text, seeds) in enumerate(zip(texts, pictures, strict=True)):
            one = llava(**builders.inputs([text], seeds)).logits[0]
            torch.testing.assert_close(many[row, -len(one) :], one, atol=1e-5, rtol=1e-5)


def test_bad_pruners_are_refused_and_leave_the_model_as_it_was(llava: Any) -> None:
    before = sorted(llava.model.__dict__), sorted(llava.__dict__)
    for pruner, message in (
        (EvoPrune(65), "keep=65 is above the 64 tokens"),
        (Random(65), "keep=65 is above the 64"),
        (EvoPrune(1), "smallest reachable keep is 16"),
        ([EvoPrune(32), EvoPrune(16)], "both act at the encoder stage"),
        ([], "empty"),
        ([EvoPrune(32, positions="original"), Random(16)], "different positions"),
        ([EvoPrune(16), Random(17)], "keep=17 is above the 16"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(llava, pruner)
    with pytest.raises(TypeError, match="is no pruner"):
        apply(llava, [64])
    assert (sorted(llava.model.__dict__), sorted(llava.__dict__)) == before


def test_models_of_no_family_are_refused_with_the_list() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    with pytest.raises(UnsupportedModel, match=r"LlamaForCausalLM.*supported are LLaVA-1.5.*AGENTS.md"):
        apply(LlamaForCausalLM(tiny), EvoPrune(16))
    with pytest.raises(UnsupportedModel, match="Linear"):
        apply(torch.nn.Linear(2, 2), EvoPrune(16))
    assert isinstance(find(builders.model()), FAMILIES[0])
    odd = builders.model()
    odd.model.vision_tower.encoder.layers[0].layer_norm2 = None
    with pytest.raises(UnsupportedModel, match="no list of blocks with the parts self_attn, layer_norm2, mlp"):
        apply(odd, EvoPrune(16))


def test_applying_twice_is_refused(llava: Any) -> None:
    with apply(llava, EvoPrune(16)):
        for target in (llava, llava.model):
            with pytest.raises(ValueError, match="applied already: call remove"):
                apply(target, Random(16))


@torch.no_grad()
def test_set_attn_implementation_after_apply(x: Any) -> None:
    model = builders.model(attention="sdpa")
    handle = apply(model, EvoPrune(16))
    expected = model(**x).logits
    model.set_attn_implementation("eager")
    for call in (model, model.generate, lambda **x: model.model.vision_tower(x["pixel_values"])):
        with pytest.raises(RuntimeError, match=r"changed from 'sdpa' to 'eager'.*remove.*apply again"):
            call(**x)
    handle.remove()
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {"eager"}
    with apply(model, EvoPrune(16)):
        torch.testing.assert_close(model(**x).logits[:, -1], expected[:, -1], atol=1e-5, rtol=1e-5)


def test_another_feature_layer_in_the_call_is_refused(llava: Any, x: Any) -> None:
    with apply(llava, EvoPrune(16)):
        with pytest.raises(ValueError, match=r"\(-1, 'default'\) in this call but were \(-2, 'default'\)"):
            llava(**x, vision_feature_layer=-1)
        with pytest.raises(ValueError, match="'full'"):
            llava.model.get_image_features(x["pixel_values"], vision_feature_select_strategy="full")
        llava(**x, vision_feature_layer=-2)


@pytest.mark.parametrize("stage", ["tower", "projector", "language model", "with"])
@torch.no_grad()
def test_an_exception_leaves_the_next_forward_right_and_the_model_restorable(x: Any, stage: str) -> None:
    model = builders.model()
    before = model(**x).logits

    class Interruption(Exception):
        pass

    def fail(*_: Any) -> None:
        raise Interruption

    module = {
        "tower": model.model.vision_tower.encoder.layers[1].mlp.fc1,
        "projector": model.model.multi_modal_projector.linear_1,
        "language model": model.model.language_model.layers[1].mlp,
        "with": None,
    }[stage]
    with pytest.raises(Interruption), apply(model, EvoPrune(16, positions="original")):  # noqa: PT012
        expected = model(**x).logits
        if module is None:
            fail()
        hook = module.register_forward_hook(fail)
        with pytest.raises(Interruption):
            model.generate(**x)
        hook.remove()
        assert torch.equal(model(**x).logits, expected)
        fail()
    assert torch.equal(model(**x).logits, before)


@torch.no_grad()
def test_two_threads_take_turns(llava: Any) -> None:
    batches = [builders.inputs(TEXTS[:1], [seed]) for seed in range(6)]
    with apply(llava, EvoPrune(16, positions="original")):
        expected = [llava.generate(**x, max_new_tokens=3, do_sample=False) for x in batches]
        found: dict[int, torch.Tensor] = {}

        def work(i: int) -> None:
            with torch.no_grad():
                found[i] = llava.generate(**batches[i], max_new_tokens=3, do_sample=False)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in range(6))


@torch.no_grad()
def test_a_saved_model_is_unpatched(x: Any, tmp_path: Any) -> None:
    from transformers import AutoModelForImageTextToText

    model = builders.model()
    before = model(**x).logits
    keys = list(model.state_dict())
    with apply(model, EvoPrune(16)):
        assert list(model.state_dict()) == keys
        model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "evoprune" not in text and json.loads(text)["model_type"] == "llava"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert torch.equal(again(**x).logits, before)


def test_copies_are_refused_while_applied(llava: Any) -> None:
    with apply(llava, EvoPrune(16)):
        for owner in (llava, llava.model, llava.model.vision_tower):
            with pytest.raises(ValueError, match=r"call remove\(\) on the handle, copy, and apply to each copy"):
                copy.deepcopy(owner)
    assert type(copy.deepcopy(llava)) is type(llava)


def test_two_models_of_one_config_do_not_disturb_each_other() -> None:
    x = builders.inputs(TEXTS[:1], [1])
    one = builders.model()
    other = type(one)._from_config(one.config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        plain = other(**x).logits
        with apply(one, EvoPrune(16)):
            assert torch.equal(other(**x).logits, plain)
            with apply(other, EvoPrune(32)):
                assert one(**x).logits.shape[1] + 16 == other(**x).logits.shape[1]


def test_stats_tell_of_the_last_call(llava: Any, x: Any) -> None:
    from evoprune import flops

    with apply(llava, EvoPrune(16)) as handle:
        assert handle.stats.milliseconds is None and handle.stats.flops == 0 and handle.stats.positions is None
        llava(**x)
        assert handle.stats.flops == 3 * flops.tower(64, (0, 32, 0, 16, 0), 32, 64, 1)
        assert handle.stats.milliseconds > 0
        assert handle.stats.positions.shape == (3, 16) and handle.stats.sources.shape == (3, 64)
        assert "tokens=(64, 32, 32, 16, 16)" in repr(handle.stats)
        assert handle.pruners == (EvoPrune(16),)
        llava(**builders.inputs(["what ?"], []))
        assert handle.stats.flops == 0 and handle.stats.visual_tokens == ()


def test_the_inner_base_model_alone(llava: Any) -> None:
    x = builders.inputs(TEXTS[1:2], [2, 3])
    with torch.no_grad(), apply(llava.model, EvoPrune(16)) as handle:
        hidden = llava.model(**x).last_hidden_state
        assert hidden.shape[1] == x["input_ids"].shape[1] - 2 * 48 and handle.stats.visual_tokens == (16,) * 2
