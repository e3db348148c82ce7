"""M-RoPE: survivors and what follows them have the positions that the full prompt gives them, on every path."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from evoprune import EvoPrune, Random, apply, patch_processor
from tests.families.case import Picture, Video
from tests.families.qwen import CASES, processor, words
from tests.families.test_qwen_tower import BUILD, NUMBERS, inputs, model_of

MERGING = EvoPrune(0.25, schedule="mean")
ROWS = [
    ("a ", Picture(40, 56, 1), " b c ", Picture(64, 24, 2), " d"),
    ("text alone ",),
    ("see ", Video(6, 24, 40, 3), " and ", Picture(32, 32, 4), " end of it"),
    ("it ends with ", Picture(32, 48, 5)),
]


@contextmanager
def watched(model: Any) -> Any:
    """Note the position ids and widths that reach the language model's rotary embedding."""
    seen: list[torch.Tensor] = []
    rotary = model.model.language_model.rotary_emb
    hook = rotary.register_forward_pre_hook(lambda module, args: seen.append(args[1].clone()))
    yield seen
    hook.remove()


def rope(model: Any, x: dict[str, Any]) -> torch.Tensor:
    """Return upstream's positions of the full prompt, (3, B, L)."""
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    return model.model.get_rope_index(x["input_ids"], **{name: x[name] for name in names if name in x})[0]


def kept_columns(x: dict[str, Any], model: Any, survivors: list[torch.Tensor], by_frame: bool) -> list[list[int]]:
    """Return the columns of each row that stay: text, and the placeholders of the survivors."""
    frames = x.get("video_grid_thw", torch.zeros(0, 3))[:, 0].tolist()
    queue = {"image": list(survivors), "video": list(survivors)[len(x["image_grid_thw"]) :]}
    token = {model.config.image_token_id: "image", model.config.video_token_id: "video"}
    rows = []
    for row, ids in enumerate(x["input_ids"].tolist()):
        kept, column = [], 0
        while column < len(ids):
            kind, run = token.get(ids[column]), 1
            while kind and column + run < len(ids) and ids[column + run] == ids[column]:
                run += 1
            if kind:
                count = 1 if kind == "image" or by_frame else frames.pop(0)  # Qwen3-VL: a run is one pair of frames
                for i in range(count):
                    kept += [column + i * run // count + int(place) for place in queue[kind].pop(0)]
            elif x["attention_mask"][row, column]:
                kept.append(column)
            column += run
        rows.append(kept)
    return rows


@NUMBERS
@pytest.mark.parametrize("pruner", [MERGING, Random(0.3)], ids=lambda one: one.name)
@pytest.mark.parametrize("generate", [False, True], ids=["forward", "generate"])
@torch.no_grad()
def test_positions_of_survivors_are_columns_of_the_full_prompt(number: str, pruner: Any, generate: bool) -> None:
    model, x = model_of(number), inputs(number, *ROWS)
    with watched(model) as seen, apply(model, pruner) as handle:
        if generate:
            model.generate(**x, max_new_tokens=1, do_sample=False)
        else:
            model(**x)
    (found,) = seen
    full = rope(model, x)
    for row, kept in enumerate(kept_columns(x, model, handle.stats.positions, number == "3")):
        assert torch.equal(found[:, row, -len(kept) :], full[:, row, kept])
    assert found.shape[2] == max(map(len, kept_columns(x, model, handle.stats.positions, number == "3")))


@NUMBERS
@torch.no_grad()
def test_what_is_generated_has_native_positions(number: str) -> None:
    model, x = model_of(number), inputs(number, *ROWS)
    steps = []
    for pruned in (False, True):
        with watched(model) as seen:
            if pruned:
                with apply(model, MERGING):
                    model.generate(**x, max_new_tokens=4, do_sample=False)
            else:
                model.generate(**x, max_new_tokens=4, do_sample=False)
        steps.append([one.expand(3, -1, -1) for one in seen[1:]])
    assert len(steps[0]) == 3
    for native, short in zip(*steps, strict=True):
        assert torch.equal(native, short)


@NUMBERS
@torch.no_grad()
def test_decoding_by_hand_has_native_positions(number: str) -> None:
    model, x = model_of(number), inputs(number, ROWS[3])
    last = []
    for pruned in (False, True):
        handle = apply(model, MERGING) if pruned else None
        cache = model(**x, use_cache=True).past_key_values
        with watched(model) as seen:
            for token in (7, 9):
                model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        last.append([one.expand(3, -1, -1) for one in seen])
        if handle is not None:
            handle.remove()
    assert len(last[0]) == 2 and all(torch.equal(*pair) for pair in zip(*last, strict=True))


@NUMBERS
@torch.no_grad()
def test_native_runs_afterwards_are_those_of_a_fresh_model(number: str) -> None:
    model, x = BUILD[number](), inputs(number, *ROWS)
    fresh, text = BUILD[number](), inputs(number, ROWS[1])
    with apply(model, MERGING):
        model.generate(**x, max_new_tokens=2, do_sample=False)
        model(**x)
    assert model.model.rope_deltas is None  # as it was
    for y in (text, x):
        assert torch.equal(model(**y).logits, fresh(**y).logits)
        long = {"max_new_tokens": 3, "do_sample": False}
        assert torch.equal(model.generate(**y, **long), fresh.generate(**y, **long))


def answered(model: Any, x: dict[str, Any], **settings: Any) -> Any:
    return model.generate(**x, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, **settings)


def grown(x: dict[str, Any], ids: torch.Tensor, model: Any) -> dict[str, Any]:
    """Return ids, mask and types of a conversation."""
    types = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
    return {**x, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}


@NUMBERS
@torch.no_grad()
def test_a_second_turn_of_text_by_its_new_ids_alone(number: str) -> None:
    model, x = model_of(number), inputs(number, ROWS[2])
    more = inputs(number, (" and then ?",))["input_ids"]
    with apply(model, MERGING):
        first = answered(model, x)
        ids = torch.cat((first.sequences, more), dim=1)
        fresh = answered(model, grown(x, ids, model)).sequences
        new = torch.cat((first.sequences[:, -1:], more), dim=1)  # the last answer's token is not in the cache yet
        cached = answered(
            model, {"input_ids": new, "attention_mask": torch.ones_like(ids)}, past_key_values=first.past_key_values
        ).sequences
    assert torch.equal(fresh[:, -3:], cached[:, -3:])


@NUMBERS
@torch.no_grad()
def test_a_second_turn_with_a_picture(number: str) -> None:
    model, x = model_of(number), inputs(number, ROWS[0])
    y = inputs(number, (" see ", Picture(48, 32, 8), " too"))
    with apply(model, MERGING) as handle:
        first = answered(model, x)
        ids = torch.cat((first.sequences, y["input_ids"]), dim=1)
        both = {name: torch.cat((x[name], y[name])) for name in ("pixel_values", "image_grid_thw")}
        fresh = answered(model, grown(both, ids, model)).sequences
        second = {name: y[name] for name in ("pixel_values", "image_grid_thw")}
        cached = answered(model, grown(second, ids, model), past_key_values=first.past_key_values).sequences
        assert handle.stats.visual_tokens == (6,)
        assert torch.equal(fresh, cached)
        third = {
            "input_ids": y["input_ids"],
            "attention_mask": torch.ones(1, cached.shape[1] + y["input_ids"].shape[1]),
        }
        with pytest.raises(ValueError, match="pass the ids of the whole conversation"):
            answered(model, {**second, **third}, past_key_values=first.past_key_values)


@NUMBERS
@torch.no_grad()
def test_static_caches_and_several_answers(number: str) -> None:
    model, x = model_of(number), inputs(number, *ROWS)
    with apply(model, MERGING):
        expected = answered(model, x).sequences
        assert torch.equal(answered(model, x, cache_implementation="static").sequences, expected)
        beams = answered(model, x, num_beams=3, num_return_sequences=3).sequences
        for i, row in enumerate(ROWS):
            alone = answered(model, inputs(number, row), num_beams=3, num_return_sequences=3).sequences
            assert torch.equal(beams[3 * i : 3 * i + 3, -3:], alone[:, -3:])


@NUMBERS
@torch.no_grad()
def test_a_prompt_filled_in_chunks(number: str) -> None:
    model, x = model_of(number), inputs(number, ROWS[0])
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers encodes inside the forward, and fills pictures in one chunk only")
    with apply(model, MERGING):
        assert torch.equal(answered(model, x, prefill_chunk_size=7).sequences, answered(model, x).sequences)


@NUMBERS
@torch.no_grad()
def test_features_computed_beforehand(number: str) -> None:
    model, x = model_of(number), inputs(number, *ROWS)
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers takes no features")
    with apply(model, MERGING):
        expected = model(**x).logits
        seen = {
            "image": model.model.get_image_features(x["pixel_values"], x["image_grid_thw"]),
            "video": model.model.get_video_features(x["pixel_values_videos"], x["video_grid_thw"]),
        }
        rest = {name: value for name, value in x.items() if not name.startswith("pixel")}
        assert torch.equal(model(**rest, mm_encoder_outputs=seen).logits, expected)


@NUMBERS
@torch.no_grad()
def test_prompts_that_were_short_already(number: str) -> None:
    model, row = model_of(number), ROWS[0]
    with apply(model, MERGING):
        expected = model(**inputs(number, row)).logits
        with patch_processor(processor(number), MERGING):
            short = inputs(number, row)
        assert short["input_ids"].shape[1] == expected.shape[1]
        assert torch.equal(model(**short).logits, expected)


@NUMBERS
@torch.no_grad()
def test_arguments_in_other_shapes_give_the_same(number: str) -> None:
    """Embeddings for ids, positions of the user's own, no token types, padding on the right."""
    model, x = model_of(number), inputs(number, *ROWS)
    with apply(model, MERGING):
        expected = model(**x).logits
        real = model_mask(model, x, expected)
        bare = {name: value for name, value in x.items() if name != "mm_token_type_ids"}
        assert torch.equal(model(**bare).logits, expected)
        embeds = model.get_input_embeddings()(x["input_ids"])
        rest = {name: value for name, value in x.items() if name != "input_ids"}
        assert torch.equal(model(**rest, inputs_embeds=embeds).logits[real], expected[real])
        own = model(**x, position_ids=rope(model, x)).logits
        torch.testing.assert_close(own[real], expected[real], atol=1e-5, rtol=1e-4)
        words().padding_side = "right"
        try:
            right = model(**inputs(number, *ROWS)).logits
        finally:
            words().padding_side = "left"
    for row, count in enumerate(real.sum(1).tolist()):
        torch.testing.assert_close(right[row, :count], expected[row, -count:], atol=1e-5, rtol=1e-4)


def model_mask(model: Any, x: dict[str, Any], logits: torch.Tensor) -> torch.Tensor:
    """Return which short columns are no padding, bool (B, S): the longest row has none."""
    case = next(case for case in CASES if model.config.model_type.startswith("qwen" + case.name[4:].replace(".", "_")))
    counts = []
    for row, mask in zip(ROWS, x["attention_mask"], strict=True):
        parts = [part for part in row if not isinstance(part, str)]
        counts.append(int(mask.sum()) - sum(case.full(part) - case.short(part, 0.25) for part in parts))
    return torch.arange(logits.shape[1]) >= logits.shape[1] - torch.tensor(counts)[:, None]


@NUMBERS
@torch.no_grad()
def test_pictures_side_by_side_are_refused(number: str) -> None:
    model, x = model_of(number), inputs(number, ROWS[0])
    ids, image = x["input_ids"], model.config.image_token_id
    short = torch.cat((ids[:, :2], ids[ids == image][None], ids[:, -2:]), dim=1)
    with apply(model, MERGING), pytest.raises(ValueError, match="two images stand side by side in row 0"):
        model(**grown(x, short, model))


@torch.no_grad()
def test_seconds_and_frames_of_videos_count() -> None:
    """Long steps in time put what follows a video elsewhere than short ones, natively and pruned."""
    number = "2.5"  # the only one that counts seconds
    model, x = model_of(number), inputs(number, ROWS[2])
    with watched(model) as seen, apply(model, MERGING):
        model(**x)
        model(**{**x, "second_per_grid_ts": torch.tensor([4.0])})
    assert int((seen[1] - seen[0]).max()) == 2 * (4 - 1) * 2  # two steps of three more seconds, two ids a second
