"""The decoder stage against a language model run by hand: the prefill, what callers ask for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache

from evoprune import apply
from evoprune.pruners import DART, EvoPrune, FasterVLM, FastV, Pruner, Random
from tests import builders
from tests.models.by_hand import (
    FULL,
    LAYERS,
    TEXTS,
    ByHand,
    agrees,
    inputs,
    lengths,
    model,
    projected,
    sequences,
)

DECODERS: list[Pruner] = [
    FastV(8),
    FastV(0.3, layer=1),
    FastV(1, layer=3),
    DART(12),
    DART(13, layer=1, image_pivots=2, text_pivots=3),
    DART(24, layer=3, counts="official"),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pruner", DECODERS, ids=str)
@torch.no_grad()
def test_prefill_equals_the_model_by_hand(pruner: Any, attention: str) -> None:
    """Every token that is left, of rows with one picture, two, none, and one with a single word behind it."""
    language, x = model(attention), inputs()
    rows = sequences(language, x, projected(language, x))
    with apply(language, pruner):
        logits = language(**x).logits
    assert logits.shape[:2] == x["input_ids"].shape
    for row, (embeds, blocks) in zip(logits, rows, strict=True):
        agrees(row[-len(embeds) :], ByHand(language, pruner).turn(embeds, blocks))


@pytest.mark.parametrize("pruner", [FastV(8), DART(12, layer=1)], ids=str)
@torch.no_grad()
def test_padding_on_the_right(pruner: Any) -> None:
    """The last token is the last that is no padding."""
    language, x = model(), inputs(side="right")
    rows = sequences(language, x, projected(language, x))
    with apply(language, pruner):
        logits = language(**x).logits
    for row, (embeds, blocks) in zip(logits, rows, strict=True):
        agrees(row[: len(embeds)], ByHand(language, pruner).turn(embeds, blocks))


@pytest.mark.parametrize(
    ("earlier", "pruner"),
    [(EvoPrune(32), FastV(8)), (FasterVLM(32), DART(12)), (Random(9, seed=1), FastV(3, layer=1))],
    ids=str,
)
@torch.no_grad()
def test_behind_earlier_stages(earlier: Any, pruner: Any) -> None:
    language, x = model(), inputs()
    rows = sequences(language, x, projected(language, x, earlier))
    with apply(language, [earlier, pruner]) as handle:
        logits = language(**x).logits
        kept = pruner.tokens_after(earlier.keep)
        assert handle.stats.visual_tokens == (earlier.keep,) * 4
        assert handle.stats.decoder_tokens == (pruner.leaves(earlier.keep, LAYERS),) * 4
        assert handle.stats.decoder_tokens[0][-1] == kept
    for row, (embeds, blocks) in zip(logits, rows, strict=True):
        agrees(row[-len(embeds) :], ByHand(language, pruner).turn(embeds, blocks))


@pytest.mark.parametrize("pruner", [FastV(8), DART(12), [EvoPrune(32), FastV(8)]], ids=str)
@torch.no_grad()
def test_a_batch_equals_its_rows(pruner: Any) -> None:
    language, x = model(), inputs()
    one = [[1], [2, 3], [], [4]]
    with apply(language, pruner):
        logits = language(**x).logits
        for i, seeds in enumerate(one):
            alone = language(**inputs([TEXTS[i]], seeds)).logits[0]
            torch.testing.assert_close(logits[i, -len(alone) :], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_keep_all_and_remove_are_bit_identical(attention: str) -> None:
    language, x = model(attention), inputs()
    before, keys = language(**x).logits, set(vars(language)) | set(vars(language.model.language_model))
    answer = language.generate(**x, max_new_tokens=4, do_sample=False)
    for pruner in (FastV(1.0), FastV(FULL), DART(FULL), DART(1.0, layer=1, counts="official")):
        with apply(language, pruner):
            assert torch.equal(language(**x).logits, before)
            assert torch.equal(language.generate(**x, max_new_tokens=4, do_sample=False), answer)
        assert torch.equal(language(**x).logits, before)
    for pruner in (FastV(8), DART(12)):
        with apply(language, pruner):
            assert not torch.equal(language(**x).logits, before)
        assert torch.equal(language(**x).logits, before)
        assert torch.equal(language.generate(**x, max_new_tokens=4, do_sample=False), answer)
    assert set(vars(language)) | set(vars(language.model.language_model)) == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in language.model.language_model.modules())


# What it is asked for besides.


@pytest.mark.parametrize("pruner", [FastV(8), DART(12, layer=1)], ids=str)
def test_the_loss_of_text_and_its_gradient(pruner: Any) -> None:
    language, x = model(), inputs()
    labels = x["input_ids"].masked_fill((x["attention_mask"] == 0) | (x["input_ids"] == builders.IMAGE_TOKEN), -100)
    labels.scatter_(1, x["attention_mask"].argmax(1, keepdim=True), -100)  # what padding would have to tell
    with torch.no_grad():
        rows = sequences(language, x, projected(language, x))
    with apply(language, pruner):
        loss = language(**x, labels=labels).loss
        loss.backward()
    wanted = []
    for (embeds, blocks), label in zip(rows, labels, strict=True):
        with torch.no_grad():
            logits = ByHand(language, pruner).turn(embeds, blocks)
        label = label[-len(embeds) :]
        for place in range(1, len(embeds)):
            if label[place] >= 0:
                # Behind a picture's last token, which may be dropped, a word is told from the last one that is left.
                told = max(i for i in range(place) if not bool(logits[i, 0].isnan()))
                wanted.append(-logits[told].log_softmax(-1)[label[place]])
    assert float(loss.detach()) == pytest.approx(float(torch.stack(wanted).mean()), abs=1e-4)
    grads = [p.grad for name, p in language.named_parameters() if "language_model.layers" in name]
    assert grads and all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    assert float(language.model.multi_modal_projector.linear_1.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_outputs_that_a_caller_may_ask_for(attention: str) -> None:
    language, x = model(attention), inputs(TEXTS[:1], [1])
    with apply(language, FastV(8)):
        plain = language(**x).logits
        asked = language(**x, output_hidden_states=True, output_attentions=attention == "eager")
        assert torch.equal(asked.logits, plain) and len(asked.hidden_states) == LAYERS + 1
        torch.testing.assert_close(language(**x, logits_to_keep=1).logits, plain[:, -1:])
        assert torch.equal(language(**x, use_cache=False).logits, plain)
        assert torch.equal(language(**x, return_dict=False)[0], plain)
        short = x["input_ids"].shape[1] - (FULL - 8)
        if attention == "eager":
            assert [one.shape[-1] for one in asked.attentions] == [x["input_ids"].shape[1]] * 2 + [short] * 2


@torch.no_grad()
def test_without_a_mask_or_in_a_cache_of_ones_own() -> None:
    language, x = model(), inputs(TEXTS[:1], [1])
    bare = {name: value for name, value in x.items() if name != "attention_mask"}
    with apply(language, FastV(8)):
        plain = language(**x).logits
        torch.testing.assert_close(language(**bare).logits, plain)
        own = DynamicCache(config=language.config.text_config)
        torch.testing.assert_close(language(**x, past_key_values=own).logits, plain)
        assert lengths(own)[0] > lengths(own)[-1]


@torch.no_grad()
def test_only_the_last_call_counts() -> None:
    """Pictures, then text alone, then pictures: nothing is left over from a call, not even of one that failed."""
    language, x, words = model(), inputs(), inputs(["hello there"], [])
    native = language(**words).logits
    with apply(language, FastV(8)) as handle:
        plain = language(**x).logits
        assert handle.stats.decoder_tokens == ((FULL, 8, 8, 8),) * 4
        assert torch.equal(language(**words).logits, native)
        assert handle.stats.decoder_tokens == ()
        hook = language.model.language_model.layers[3].register_forward_pre_hook(_fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            language(**x)
        hook.remove()
        assert torch.equal(language(**words).logits, native)
        assert torch.equal(language(**x).logits, plain)


def _fail(*args: Any) -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pruner", [FastV(8), DART(12)], ids=str)
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, pruner: Any) -> None:
    language, x = model().to(dtype), inputs()
    x["pixel_values"] = x["pixel_values"].to(dtype)
    with apply(language, pruner):
        out = language.generate(
            **x, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    assert all(bool(step.isfinite().all()) for step in out.logits)
    assert all(layer.keys.dtype == dtype for layer in out.past_key_values.layers)


@torch.no_grad()
def test_sampling_and_several_answers() -> None:
    language, x = model(), inputs([TEXTS[0], TEXTS[2], TEXTS[3]], [1, 4])
    with apply(language, FastV(8)):
        torch.manual_seed(0)
        many = language.generate(**x, max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=3)
        plain = language.generate(**x, max_new_tokens=5, do_sample=False)
    assert many.shape[0] == 9
    assert [row[-5:] for row in many.tolist()] == [row[-5:] for row in plain.tolist() for _ in range(3)]


# What is refused.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"generation_config": GenerationConfig(cache_implementation="static")}, "cache_implementation='static'"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3"),
        ({"prefill_chunk_size": 8}, "prefill_chunk_size=8"),
        ({"guidance_scale": 2.0}, r"guidance_scale=2\.0"),  # runs another prompt within the call
        ({"cache_implementation": "offloaded_static"}, "cache_implementation='offloaded_static'"),
    ],
    ids=str,
)
@torch.no_grad()
def test_ways_to_generate_that_need_caches_of_one_length(settings: dict[str, Any], words: str) -> None:
    language, x = model(), inputs(TEXTS[:1], [1])
    with apply(language, FastV(8)), pytest.raises(ValueError, match=words) as raised:
        language.generate(**x, **settings, max_new_tokens=3)
    said = str(raised.value)
    assert "fastv" in said and ": " in said and "\n" not in said and not said.rstrip(".").count(". ")


@torch.no_grad()
def test_assistants_and_static_caches_are_refused() -> None:
    language, x = model(), inputs(TEXTS[:1], [1])
    static = StaticCache(config=language.config.text_config, max_cache_len=200)
    with apply(language, DART(12)):
        with pytest.raises(ValueError, match=r"dart drops tokens .*assistant_model=LlavaForConditionalGeneration"):
            language.generate(**x, assistant_model=model(), max_new_tokens=3)
        for call in (language, language.generate):
            with pytest.raises(ValueError, match="the layers of a StaticCache have one length"):
                call(**x, past_key_values=static)


@torch.no_grad()
def test_a_cache_that_was_cropped_is_refused() -> None:
    language, x = model(), inputs(TEXTS[:1], [1])
    with apply(language, FastV(8)):
        cache = language(**x).past_key_values
        cache.crop(-3)
        with pytest.raises(ValueError, match="cropping"):
            language(input_ids=x["input_ids"][:, -3:], past_key_values=cache)


def test_what_does_not_fit_the_model_is_refused_by_apply() -> None:
    language = model()
    for pruner, words in (
        (FastV(8, layer=4), r"layer=4 is outside 1\.\.3"),
        (DART(8, layer=9), r"layer=9 is outside 1\.\.3"),
        (FastV(65), "keep=65"),
        (DART(3), "less than the 4 tokens"),
        ([EvoPrune(16), FastV(17)], "keep=17"),
        ([FastV(8), DART(8)], "decoder"),
    ):
        with pytest.raises(ValueError, match=words):
            apply(language, pruner)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in language.modules())
