"""Packed towers under hooks against a literal loop over pictures: units, windows, deepstack, chunks, costs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evoprune import EvoPrune, Random, ToMe, apply
from evoprune.models import find
from tests.families import qwen_literal as literal
from tests.families.case import Picture, Video
from tests.families.qwen import CASES, qwen2, qwen3, qwen3_moe, qwen25

BUILD = {"2": qwen2, "2.5": qwen25, "3": qwen3}
NUMBERS = pytest.mark.parametrize("number", sorted(BUILD))


@functools.cache
def model_of(number: str) -> Any:
    return BUILD[number]()


def inputs(number: str, *rows: Any) -> dict[str, Any]:
    return next(case for case in CASES if case.name == f"qwen{number}").inputs(rows)


def pictures(number: str) -> dict[str, Any]:
    """Three pictures, two of them of one size, and a clip of three pairs of frames."""
    return inputs(
        number,
        ("a ", Picture(40, 56, 1), " b ", Picture(64, 48, 2)),
        ("c ", Picture(40, 56, 3), " d ", Video(6, 48, 40, 4), " e"),
    )


def frames(x: dict[str, Any], modality: str) -> list[tuple[torch.Tensor, int, int]]:
    """Return the pixels and grid of each frame."""
    pixels = x["pixel_values" if modality == "image" else "pixel_values_videos"]
    found, first = [], 0
    for count, rows, columns in x[f"{modality}_grid_thw"].tolist():
        for _ in range(count):
            found.append((pixels[first : first + rows * columns], rows, columns))
            first += rows * columns
    return found


def features(model: Any, x: dict[str, Any], modality: str) -> Any:
    grid = x[f"{modality}_grid_thw"]
    if modality == "image":
        return model.model.get_image_features(x["pixel_values"], grid)
    return model.model.get_video_features(x["pixel_values_videos"], grid)


def deepstack(output: Any) -> list[torch.Tensor]:
    """Return deepstack features, whether they are cut by picture (5.23) or not."""
    return [one if isinstance(one, torch.Tensor) else torch.cat(one) for one in output.deepstack_features]


@NUMBERS
@pytest.mark.parametrize(
    "settings",
    [{"schedule": "mean"}, {"schedule": "last:3"}, {"attention": False, "schedule": "mean", "weights": "size"}],
    ids=str,
)
@pytest.mark.parametrize("keep", [0.4, 0.2, 6])
@torch.no_grad()
def test_packed_towers_compute_what_the_literal_loop_computes(number: str, settings: Any, keep: Any) -> None:
    model, pruner, x = model_of(number), EvoPrune(keep, **settings), pictures(number)
    for modality in ("image", "video"):
        expected = [literal.frame(model, *one, pruner) for one in frames(x, modality)]
        with apply(model, pruner) as handle:
            found = features(model, x, modality)
        torch.testing.assert_close(
            torch.cat(found.pooler_output), torch.cat([one[0] for one in expected]), atol=2e-5, rtol=2e-4
        )
        for places, one in zip(handle.stats.positions, expected, strict=True):
            assert torch.equal(places, one[2])
        if number == "3":
            for level, value in enumerate(deepstack(found)):
                wanted = torch.cat([one[1][level] for one in expected])
                torch.testing.assert_close(value, wanted, atol=2e-5, rtol=2e-4)


@NUMBERS
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "pruner", [ToMe(0.3), EvoPrune(0.25, schedule="mean", proportional_attention=True)], ids=lambda one: one.name
)
@torch.no_grad()
def test_proportional_attention_of_pictures_and_windows(number: str, attention: str, pruner: Any) -> None:
    model, x = BUILD[number](), pictures(number)
    model.set_attn_implementation(attention)
    for modality in ("image", "video"):
        expected = [literal.frame(model, *one, pruner) for one in frames(x, modality)]
        without = features_of(model, dataclasses.replace(pruner, proportional_attention=False), x, modality)
        found = features_of(model, pruner, x, modality)
        torch.testing.assert_close(found, torch.cat([one[0] for one in expected]), atol=2e-5, rtol=2e-4)
        assert (found - without).abs().max() > 1e-3


@torch.no_grad()
def test_biases_begin_anew_after_a_call_that_failed_between_two_pictures() -> None:
    model, pruner, x = qwen2(), ToMe(0.3), pictures("2")
    expected = features_of(model, pruner, x, "image")
    with apply(model, pruner):
        attention, calls = model.model.visual.blocks[-1].attn, []
        tap = attention.__dict__["_evoprune_tap"]
        base = tap.base

        def fail(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise MemoryError
            return base(*args, **kwargs)

        tap.base = fail
        with pytest.raises(MemoryError):
            features(model, x, "image")
        tap.base = base
        assert torch.equal(torch.cat(features(model, x, "image").pooler_output), expected)


def features_of(model: Any, pruner: Any, x: dict[str, Any], modality: str) -> torch.Tensor:
    with apply(model, pruner):
        return torch.cat(features(model, x, modality).pooler_output)


@torch.no_grad()
def test_window_layers_behind_a_merge_attend_inside_the_windows_of_the_survivors() -> None:
    """Without windows of their own the survivors would see the whole picture, and the result would be another."""
    model, x = model_of("2.5"), inputs("2.5", (Picture(64, 80, 5),))
    seen: list[list[int]] = []
    hook = model.model.visual.blocks[2].attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["cu_seqlens"].tolist()), with_kwargs=True
    )
    with apply(model, EvoPrune(0.25, schedule="mean")) as handle:
        features(model, x, "image")
    features(model, x, "image")
    hook.remove()
    pruned, native = seen
    left = handle.stats.tokens[1]
    assert pruned[-1] == 4 * left and 2 < len(pruned) <= len(native) == 21
    assert all(after - before <= 16 for before, after in itertools.pairwise(pruned))


@torch.no_grad()
def test_windows_that_lose_all_their_units() -> None:
    model, pruner = qwen25(fullatt=(0, 1, 2, 5)), EvoPrune(0.13, schedule="first:3", attention=False)
    x = inputs("2.5", (Picture(16, 240, 6), Picture(48, 72, 7)))
    expected = [literal.frame(model, *one, pruner)[0] for one in frames(x, "image")]
    borders: list[int] = []
    hook = model.model.visual.blocks[3].attn.register_forward_pre_hook(
        lambda module, args, kwargs: borders.append(len(kwargs["cu_seqlens"])), with_kwargs=True
    )
    with apply(model, pruner):
        found = torch.cat(features(model, x, "image").pooler_output)
    hook.remove()
    assert borders[0] < 1 + 15 + 3 * 5  # native windows
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=2e-4)


def test_the_order_of_tome_is_refused_where_it_would_tear_windows() -> None:
    with pytest.raises(ValueError, match=r"order='tome' would tear the windows of Qwen2\.5-VL"):
        apply(model_of("2.5"), EvoPrune(0.5, schedule="mean", order="tome"))
    assert "permute_input_for_window_attn" not in model_of("2.5").model.visual.__dict__


@NUMBERS
@torch.no_grad()
def test_the_feature_stage_picks_from_every_feature(number: str) -> None:
    model, x = model_of(number), pictures(number)
    native = features(model, x, "image")
    with apply(model, Random(0.5)) as handle:
        found = features(model, x, "image")
    begin, chosen = 0, []
    for places, one in zip(handle.stats.positions, native.pooler_output, strict=True):
        chosen.append(begin + places)
        begin += len(one)
    rows = torch.cat(chosen)
    torch.testing.assert_close(torch.cat(found.pooler_output), torch.cat(native.pooler_output)[rows])
    if number == "3":
        for one, other in zip(deepstack(found), deepstack(native), strict=True):
            torch.testing.assert_close(one, other[rows])


@torch.no_grad()
def test_both_stages_together() -> None:
    for number in BUILD:
        model, x = model_of(number), pictures(number)
        with apply(model, [EvoPrune(0.5, schedule="mean"), Random(6)]) as handle:
            model(**x)
        assert handle.stats.visual_tokens == (6, 6, 6, 18)
        for standing, places in zip(handle.stats.sources, handle.stats.positions, strict=True):
            assert torch.equal(standing[places], torch.arange(6)) and int(standing.min()) == -1


@NUMBERS
@torch.no_grad()
def test_the_tower_called_by_itself_gives_survivors(number: str) -> None:
    model, x = model_of(number), pictures(number)
    with apply(model, EvoPrune(0.25, schedule="mean")):
        expected = torch.cat(features(model, x, "image").pooler_output)
        found = model.model.visual(x["pixel_values"], grid_thw=x["image_grid_thw"]).pooler_output
    assert torch.equal(found, expected)
    with apply(model, EvoPrune(0.25, schedule="mean"), encoder_batch=2):
        found = model.model.visual(x["pixel_values"], grid_thw=x["image_grid_thw"]).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@NUMBERS
@pytest.mark.parametrize("size", [1, 2, 5])
@torch.no_grad()
def test_chunks_cut_videos_between_frames(number: str, size: int) -> None:
    model, x = model_of(number), pictures(number)
    pruner = EvoPrune(8, schedule="mean")
    small = inputs(number, (Picture(16, 16, 1), Picture(40, 56, 2), Picture(16, 24, 3)))  # 4, 35 and 6 units
    with apply(model, pruner):
        whole = [*features(model, x, "video").pooler_output, *features(model, small, "image").pooler_output]
    lengths: list[int] = []
    with apply(model, pruner, encoder_batch=size):
        hook = model.model.visual.patch_embed.register_forward_pre_hook(
            lambda module, args: lengths.append(len(args[0]))
        )
        found = [*features(model, x, "video").pooler_output, *features(model, small, "image").pooler_output]
        hook.remove()
    assert [len(one) for one in found] == [24, 4, 8, 6]
    assert len(lengths) == 2 * -(-3 // size)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@NUMBERS
@torch.no_grad()
def test_small_pictures_stay_whole_and_their_features_native(number: str) -> None:
    model = model_of(number)
    x = inputs(number, (Picture(16, 24, 1), " ", Picture(40, 56, 2)))
    native = features(model, x, "image").pooler_output
    with apply(model, EvoPrune(8, schedule="mean")) as handle:
        found = features(model, x, "image").pooler_output
        assert [len(one) for one in found] == [6, 8]
        assert handle.stats.visual_tokens == (6, 8)
        torch.testing.assert_close(found[0], native[0], atol=1e-6, rtol=1e-5)
        alone = inputs(number, (Picture(16, 24, 1),))
        assert torch.equal(features(model, alone, "image").pooler_output[0], features_native(model, alone))


def features_native(model: Any, x: dict[str, Any]) -> torch.Tensor:
    handle = model.model.visual
    return type(handle).forward(handle, x["pixel_values"], grid_thw=x["image_grid_thw"]).pooler_output


@NUMBERS
@torch.no_grad()
def test_the_shape_model_of_cost_counts_what_runs(number: str) -> None:
    model = BUILD[number](attention="eager")
    x = inputs(number, (Picture(40, 56, 1), Picture(64, 48, 2)))
    with apply(model, EvoPrune(1.0, schedule="mean")) as handle, FlopCounterMode(display=False) as counter:
        features(model, x, "image")
    counts = counter.get_flop_counts()
    tower = type(model.model.visual).__name__
    blocks = [value for name, value in counts.items() if name.startswith(f"{tower}.blocks.") and name.count(".") == 2]
    assert handle.stats.flops == sum(sum(one.values()) for one in blocks)
    with apply(model, EvoPrune(0.25, schedule="mean")) as cheaper:
        features(model, x, "image")
    assert cheaper.stats.flops < 0.8 * handle.stats.flops


@NUMBERS
def test_gradients_reach_the_pixels(number: str) -> None:
    model, x = model_of(number), pictures(number)
    pixels = x["pixel_values"].clone().requires_grad_()
    with apply(model, EvoPrune(0.25, schedule="mean")):
        model(**{**x, "pixel_values": pixels}).logits[:, -1].sum().backward()
    grads = [part.abs().sum() for part in pixels.grad.split(x["image_grid_thw"].prod(-1).tolist())]
    assert all(one > 0 for one in grads)
    model.zero_grad()


def test_sequences_of_unequal_pictures_are_matched_in_groups() -> None:
    model, x = model_of("2"), pictures("2")
    with torch.no_grad(), apply(model, EvoPrune(0.25, schedule="mean")) as handle:
        model(**x)
        groups = [[group.items for group in run.groups] for run in handle.stats._state.all_runs]
    assert groups == [[(0, 2), (1,)], [(0, 1, 2)]]
    assert find(model).units((10, 14)) == 35


@NUMBERS
def test_checkpointed_training_gives_the_same_gradients(number: str) -> None:
    x, found = pictures(number), []
    labels = x["input_ids"].masked_fill(x["attention_mask"] == 0, -100)
    for checkpointing in (False, True):
        model = BUILD[number]().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        with apply(model, EvoPrune(0.25, schedule="mean")):
            model(**x, labels=labels).loss.backward()
        found.append(model.model.visual.patch_embed.proj.weight.grad)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_mixture_of_experts_form() -> None:
    model, x = qwen3_moe(), pictures("3")
    native = model(**x).logits
    with apply(model, EvoPrune(1.0, schedule="mean")):
        assert torch.equal(model(**x).logits, native)
    with apply(model, EvoPrune(0.25, schedule="mean")) as handle:
        logits = model(**x).logits
        assert handle.stats.visual_tokens == (9, 12, 9, 24)
        assert logits.shape[1] < native.shape[1]
        answer = model.generate(**x, max_new_tokens=1, do_sample=False)[:, -1]
        assert torch.equal(answer, logits[:, -1].argmax(-1))
    assert torch.equal(model(**x).logits, native)


@torch.no_grad()
def test_the_inner_model_without_a_head() -> None:
    for number in BUILD:
        model, x = model_of(number), pictures(number)
        with apply(model, EvoPrune(0.25, schedule="mean")):
            expected = model(**x, output_hidden_states=True).hidden_states[-1]
        with apply(model.model, EvoPrune(0.25, schedule="mean")):
            torch.testing.assert_close(model.model(**x).last_hidden_state, expected)


@NUMBERS
@torch.no_grad()
def test_a_pruned_tower_returns_no_tuple(number: str) -> None:
    model, x = model_of(number), pictures(number)
    with apply(model, EvoPrune(0.25, schedule="mean")), pytest.raises(ValueError, match="leave out return_dict"):
        model.model.get_image_features(x["pixel_values"], x["image_grid_thw"], return_dict=False)
