"""The entry shim: what the user sees of generate and forward is what a hand-made short prompt gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from evoprune.apply import apply
from evoprune.pruners import Downsample, EvoPrune, Random
from tests import builders
from tests.models import literal

TEXTS = [
    "USER: <image> what is this ? ASSISTANT:",
    "USER: what is a dog ? a b c d e f g h ASSISTANT:",
    "a <image> b <image> what",
    "<image> <image> <image> ?",
]
SEEDS = [1, 2, 3, 4, 5, 6]
PRUNERS = [EvoPrune(16), EvoPrune(16, positions="original"), Random(16, positions="original"), Downsample(16)]


def name(pruner: Any) -> str:
    return f"{pruner.name}-{pruner.positions}"


def rows(x: dict[str, Any]) -> list[torch.Tensor]:
    return [ids[mask.bool()] for ids, mask in zip(x["input_ids"], x["attention_mask"], strict=True)]


def features_of(model: Any, handle: Any, x: dict[str, Any]) -> tuple[list[torch.Tensor], Any]:
    features = list(model.model.get_image_features(x["pixel_values"]).pooler_output)
    original = handle.pruners[0].positions == "original"
    return features, (handle.stats.positions if original else None)


def split(x: dict[str, Any], features: list[Any], places: Any) -> list[tuple[torch.Tensor, list[Any], Any]]:
    """Hand each row its own images."""
    out, at = [], 0
    for ids in rows(x):
        n = int((ids == builders.IMAGE_TOKEN).sum()) // 64
        out.append((ids, features[at : at + n], None if places is None else places[at : at + n]))
        at += n
    return out


@pytest.mark.parametrize("pruner", PRUNERS, ids=name)
@torch.no_grad()
def test_forward_of_a_padded_batch_is_the_literal_short_prompt(llava: Any, pruner: Any) -> None:
    x = builders.inputs(TEXTS, SEEDS)
    with apply(llava, pruner) as handle:
        features, places = features_of(llava, handle, x)
        found = llava(**x).logits
        assert handle.stats.visual_tokens == (16,) * 6
    assert found.shape[1] == x["input_ids"].shape[1] - 3 * 48
    for row, (ids, images, original) in enumerate(split(x, features, places)):
        expected = literal.logits(llava, ids, images, 64, original)
        torch.testing.assert_close(found[row, -len(expected) :], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pruner", PRUNERS, ids=name)
@pytest.mark.parametrize(
    "how", ["greedy", "static", "no cache", "chunks", "right padding", "no mask", "embeddings", "encoded before"]
)
@torch.no_grad()
def test_generate_is_the_literal_loop(llava: Any, pruner: Any, how: str) -> None:
    x = builders.inputs(TEXTS, SEEDS)
    ids = x["input_ids"]
    settings: dict[str, Any] = {}
    with apply(llava, pruner) as handle:
        features, places = features_of(llava, handle, x)
        expected = [literal.greedy(llava, r, f, 64, 4, p) for r, f, p in split(x, features, places)]
        if how == "static":
            settings = {"cache_implementation": "static", "disable_compile": True}
        elif how == "no cache":
            settings = {"use_cache": False}
        elif how == "chunks":
            if not supports("mm_encoder_outputs"):
                pytest.skip("chunked prefill of pictures needs transformers 5.23")
            settings = {"prefill_chunk_size": 7}
        elif how == "right padding":
            x = flipped(x)
        elif how == "no mask":
            del x["attention_mask"]
        elif how == "embeddings":
            x["inputs_embeds"] = llava.get_input_embeddings()(x.pop("input_ids"))
        elif how == "encoded before":
            if not supports("mm_encoder_outputs"):
                pytest.skip("mm_encoder_outputs needs transformers 5.23")
            encoded = llava.model.get_image_features(x.pop("pixel_values"))
            x["mm_encoder_outputs"] = {"image": encoded}
        out = llava.generate(**x, **settings, max_new_tokens=4, do_sample=False)
    if how != "embeddings":
        assert torch.equal(out[:, :-4], x["input_ids"])
        assert out.shape == (4, ids.shape[1] + 4)
    assert torch.equal(out[:, -4:], torch.stack(expected))


def supports(name: str) -> bool:
    import inspect

    from transformers import LlavaForConditionalGeneration

    return name in inspect.signature(LlavaForConditionalGeneration.forward).parameters


def flipped(x: dict[str, Any]) -> dict[str, Any]:
    """Return the batch with its padding on the right."""
    y = dict(x)
    for name in ("input_ids", "attention_mask"):
        y[name] = torch.zeros_like(x[name])
        for row, mask in enumerate(x["attention_mask"].bool()):
            y[name][row, : int(mask.sum())] = x[name][row][mask]
    return y


@torch.no_grad()
def test_forward_with_right_padding_and_without_mask(llava: Any) -> None:
    x = builders.inputs(TEXTS, SEEDS)
    with apply(llava, EvoPrune(16)) as handle:
        features, places = features_of(llava, handle, x)
        found = llava(**flipped(x)).logits
        alone = {name: value[3:] for name, value in x.items() if name == "input_ids"}
        bare = llava(**alone, pixel_values=x["pixel_values"][3:]).logits
    for row, (ids, images, _) in enumerate(split(x, features, places)):
        expected = literal.logits(llava, ids, images, 64)
        torch.testing.assert_close(found[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bare[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_original_positions_without_mask_and_cache_are_not_taken_for_packed_sequences(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    with apply(llava, EvoPrune(16, positions="original")) as handle:
        features, places = features_of(llava, handle, x)
        expected = literal.logits(llava, x["input_ids"][0], features, 64, places)
        for cache in (False, True):
            found = llava(input_ids=x["input_ids"], pixel_values=x["pixel_values"], use_cache=cache).logits[0]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_user_position_ids_are_shortened_with_the_prompt(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    given = torch.arange(x["input_ids"].shape[1])[None] + 5
    for positions in ("contiguous", "original"):
        with apply(llava, EvoPrune(16, positions=positions)) as handle:
            seen = []
            hook = llava.model.language_model.register_forward_pre_hook(
                lambda m, a, k, seen=seen: seen.append(k["position_ids"]), with_kwargs=True
            )
            llava(**x, position_ids=given)
            hook.remove()
            places = handle.stats.positions
        assert places is not None
        start = int((x["input_ids"][0] == builders.IMAGE_TOKEN).int().argmax())
        if positions == "contiguous":
            expected = torch.arange(given.shape[1] - 48) + 5
        else:
            expected = torch.cat((given[0, :start], given[0, start] + places[0], given[0, start + 64 :]))
        assert torch.equal(seen[0], expected[None])


@pytest.mark.parametrize("pruner", PRUNERS[:2], ids=name)
@torch.no_grad()
def test_beams_and_several_answers_are_those_of_each_row_alone(llava: Any, pruner: Any) -> None:
    x = builders.inputs(TEXTS[:2], [1])
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "return_dict_in_generate": True}
    with apply(llava, pruner):
        both = llava.generate(**x, **settings, output_scores=True)
        assert both.sequences.shape == (4, x["input_ids"].shape[1] + 4)
        assert torch.equal(both.sequences[:, :-4], x["input_ids"].repeat_interleave(2, 0))
        for row, seeds in ((0, [1]), (1, [])):
            alone = llava.generate(**builders.inputs(TEXTS[row : row + 1], seeds), **settings)
            assert torch.equal(both.sequences[2 * row : 2 * row + 2, -4:], alone.sequences[:, -4:])
    torch.manual_seed(0)
    with apply(llava, pruner):
        drawn = llava.generate(**x, do_sample=True, num_return_sequences=3, max_new_tokens=2)
    assert drawn.shape == (6, x["input_ids"].shape[1] + 2)


@torch.no_grad()
def test_prompts_without_pictures_run_as_they_are(llava: Any) -> None:
    x = builders.inputs([TEXTS[1], "what ?"], [])
    plain, answer = llava(**x).logits, llava.generate(**x, max_new_tokens=3)
    with apply(llava, EvoPrune(16, positions="original")) as handle:
        assert torch.equal(llava(**x).logits, plain)
        assert torch.equal(llava.generate(**x, max_new_tokens=3), answer)
        assert handle.stats.visual_tokens == () and handle.stats.flops == 0 and handle.stats.sources is None


@torch.no_grad()
def test_embeddings_that_carry_the_features_already_run_as_they_are(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    ids = x["input_ids"][0]
    with apply(llava, EvoPrune(16)):
        features = llava.model.get_image_features(x["pixel_values"]).pooler_output
        embeds = llava.get_input_embeddings()(ids)
        start = int((ids == builders.IMAGE_TOKEN).int().argmax())
        embeds = torch.cat((embeds[:start], features[0], embeds[start + 64 :]))[None]
        found = llava(inputs_embeds=embeds).logits[0]
        new = llava.generate(inputs_embeds=embeds, max_new_tokens=3, do_sample=False)
        expected = llava.generate(**x, max_new_tokens=3, do_sample=False)[:, -3:]
    torch.testing.assert_close(found, literal.logits(llava, ids, list(features), 64), atol=1e-5, rtol=1e-5)
    assert torch.equal(new, expected)


@pytest.mark.parametrize("pruner", PRUNERS[:2], ids=name)
def test_loss_is_that_of_the_short_prompt(llava: Any, pruner: Any) -> None:
    x = builders.inputs(TEXTS, SEEDS)
    labels = x["input_ids"].masked_fill((x["attention_mask"] == 0) | (x["input_ids"] == builders.IMAGE_TOKEN), -100)
    labels[:, 1:][x["attention_mask"][:, :-1] == 0] = -100  # nothing stands before a row's first token
    with apply(llava, pruner) as handle:
        with torch.no_grad():
            features, places = features_of(llava, handle, x)
        found = llava(**x, labels=labels).loss
    losses = []
    for ids, images, original in split(x, features, places):
        logits = literal.logits(llava, ids, images, 64, original)
        short = torch.cat([t for i, t in enumerate(ids.split(1)) if keeps(ids, i)])
        target = short.masked_fill(short == builders.IMAGE_TOKEN, -100)[1:]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], target, reduction="none")[target != -100])
    torch.testing.assert_close(found, torch.cat(losses).mean(), atol=1e-5, rtol=1e-5)


def keeps(ids: torch.Tensor, place: int) -> bool:
    before = int((ids[: place + 1] == builders.IMAGE_TOKEN).sum())
    return int(ids[place]) != builders.IMAGE_TOKEN or (before - 1) % 64 < 16


@pytest.mark.parametrize("pruner", PRUNERS[:2], ids=name)
@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_second_turn_with_the_cache_equals_a_fresh_prompt(llava: Any, pruner: Any, static: bool) -> None:
    x = builders.inputs([TEXTS[0]], [1])
    more = builders.tokenizer()("is a red dog ?", return_tensors="pt").input_ids
    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    with apply(llava, pruner):
        if static:
            settings["past_key_values"] = StaticCache(config=llava.config.text_config, max_cache_len=128)
        first = llava.generate(**x, **settings)
        settings["past_key_values"] = first.past_key_values
        whole = torch.cat((first.sequences, more), 1)
        mask = torch.ones_like(whole)
        second = llava.generate(input_ids=whole, attention_mask=mask, **settings)
        del settings["past_key_values"]
        fresh = llava.generate(input_ids=whole, attention_mask=mask, pixel_values=x["pixel_values"], **settings)
        assert torch.equal(second.sequences, fresh.sequences)
        assert torch.equal(second.sequences[:, : whole.shape[1]], whole)


@pytest.mark.parametrize("pruner", PRUNERS[:2], ids=name)
@torch.no_grad()
def test_second_turn_may_bring_a_new_picture(llava: Any, pruner: Any) -> None:
    x = builders.inputs([TEXTS[0]], [1])
    y = builders.inputs(["is <image> red ?"], [2])
    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    with apply(llava, pruner):
        first = llava.generate(**x, **settings)
        whole = torch.cat((first.sequences, y["input_ids"]), 1)
        fresh = llava.generate(
            input_ids=whole, pixel_values=torch.cat((x["pixel_values"], y["pixel_values"])), **settings
        )
        second = llava.generate(
            input_ids=whole, pixel_values=y["pixel_values"], past_key_values=first.past_key_values, **settings
        )
        assert torch.equal(second.sequences, fresh.sequences)


@pytest.mark.parametrize("pruner", PRUNERS[:2], ids=name)
@torch.no_grad()
def test_a_hand_written_loop_over_forward_understands_the_users_long_mask(llava: Any, pruner: Any) -> None:
    x = builders.inputs(TEXTS, SEEDS)
    with apply(llava, pruner):
        expected = llava.generate(**x, max_new_tokens=4, do_sample=False)[:, -4:]
        out, mask, found = llava(**x, use_cache=True), x["attention_mask"], []
        for _ in range(4):
            best = out.logits[:, -1].argmax(-1, keepdim=True)
            found.append(best)
            mask = torch.cat((mask, torch.ones_like(best)), 1)
            out = llava(input_ids=best, attention_mask=mask, past_key_values=out.past_key_values)
    assert torch.equal(torch.cat(found, 1), expected)


@torch.no_grad()
def test_new_ids_alone_may_hold_a_new_picture(llava: Any) -> None:
    x, y = builders.inputs([TEXTS[0]], [1]), builders.inputs(["is <image> red ?"], [2])
    pixels = torch.cat((x["pixel_values"], y["pixel_values"]))
    whole = torch.cat((x["input_ids"], y["input_ids"]), 1)
    mask = torch.ones_like(whole)
    with apply(llava, EvoPrune(16)):
        expected = llava(input_ids=whole, pixel_values=pixels).logits[:, -3:]
        cache = DynamicCache(config=llava.config.text_config)
        llava(**x, past_key_values=cache, use_cache=True)
        found = llava(**{**y, "attention_mask": mask}, past_key_values=cache, use_cache=True).logits[:, -3:]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with apply(llava, EvoPrune(16, positions="original")):
        cache = DynamicCache(config=llava.config.text_config)
        llava(**x, past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="pass the ids of the whole conversation"):
            llava(**{**y, "attention_mask": mask}, past_key_values=cache, use_cache=True)


@torch.no_grad()
def test_placeholders_that_fit_nothing_are_refused(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    two = torch.cat((x["pixel_values"],) * 2)
    with apply(llava, EvoPrune(16)):
        start = int((x["input_ids"][0] == builders.IMAGE_TOKEN).int().argmax())
        with pytest.raises(ValueError, match=r"a run of 63 image placeholders fits neither 64.*nor 16"):
            llava(input_ids=x["input_ids"][:, start + 1 :], pixel_values=x["pixel_values"])
        with pytest.raises(ValueError, match="64 image placeholders but 2 images"):
            llava.generate(input_ids=x["input_ids"], pixel_values=two)
        with pytest.raises(ValueError, match="no image placeholder but 1 images"):
            llava(input_ids=x["input_ids"][:, :1], pixel_values=x["pixel_values"])
        llava(**x)


@torch.no_grad()
def test_a_placeholder_that_the_model_generated_is_text(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    stray = torch.tensor([[builders.IMAGE_TOKEN, 10]])
    with apply(llava, EvoPrune(16)):
        out = llava(**x, use_cache=True)
        cache = out.past_key_values
        llava(input_ids=stray[:, :1], past_key_values=cache)
        assert cache.get_seq_length() == x["input_ids"].shape[1] - 48 + 1
        whole = torch.cat((x["input_ids"], stray), 1)
        found = llava.generate(input_ids=whole, past_key_values=cache, max_new_tokens=1)
        assert cache.get_seq_length() == x["input_ids"].shape[1] - 48 + 2
    assert torch.equal(found[:, :-1], whole)


@torch.no_grad()
def test_masks_that_cannot_be_shortened_are_refused(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    width = x["input_ids"].shape[1]
    x["attention_mask"] = torch.ones(1, 1, width, width, dtype=torch.bool).tril()
    plain = llava(**x).logits
    with apply(llava, EvoPrune(1.0)):
        assert torch.equal(llava(**x).logits, plain)
    with apply(llava, EvoPrune(16)):
        with pytest.raises(ValueError, match=r"attention_mask of shape \(1, 1, .*give one of shape \(batch, tokens\)"):
            llava(**x)
        with pytest.raises(ValueError, match="attention_mask of type dict"):
            llava(**{**x, "attention_mask": {"full_attention": x["attention_mask"]}})


@torch.no_grad()
def test_compensating_errors_of_two_images_are_noticed(llava: Any) -> None:
    image, text = [builders.IMAGE_TOKEN], [10]
    ids = torch.tensor([text + image * 63 + text + image * 65 + text])
    pixels = builders.inputs(["<image> <image>"], [1, 2])["pixel_values"]
    with apply(llava, EvoPrune(16)), pytest.raises(ValueError, match="a run of 63"):
        llava(input_ids=ids, pixel_values=pixels)


@torch.no_grad()
def test_features_encoded_without_the_pruner_are_refused(llava: Any) -> None:
    if not supports("mm_encoder_outputs"):
        pytest.skip("mm_encoder_outputs needs transformers 5.23")
    x = builders.inputs(TEXTS[:1], [1])
    encoded = llava.model.get_image_features(x.pop("pixel_values"))
    with apply(llava, EvoPrune(16)), pytest.raises(ValueError, match=r"carries \[64\] tokens an image.*leaves 16"):
        llava(**x, mm_encoder_outputs={"image": encoded})


@torch.no_grad()
def test_logits_to_keep_counts_in_the_users_prompt(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [1])
    last = x["input_ids"].shape[1] - 1
    with apply(llava, EvoPrune(16)):
        full = llava(**x).logits
        assert torch.equal(llava(**x, logits_to_keep=2).logits, full[:, -2:])
        torch.testing.assert_close(llava(**x, logits_to_keep=torch.tensor([0, last])).logits, full[:, [0, -1]])
        with pytest.raises(ValueError, match="were dropped"):
            llava(**x, logits_to_keep=torch.tensor([40]))
