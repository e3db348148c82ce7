"""ToMe: its matching against loops, its settings, and what runs in a tower."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from evoprune import EvoPrune, ToMe, apply, flops
from evoprune.ops import kernels
from evoprune.pruners import LayerView
from evoprune.pruners.tome import conformance, rates, soft_matching
from tests import builders
from tests.models import literal

TIE = 1e-5


def cosine(x: list[float], y: list[float]) -> float:
    length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(p * q for p, q in zip(x, y, strict=True)) / length if length else 0.0


def check(keys: list[list[float]], source: list[int], target: list[int], fixed: tuple[int, ...] = ()) -> None:
    """Check pairs against loops over float64: each goes to its best, and those that merge are the best of all."""
    places = range(len(keys))
    first = [i for i in places if i % 2 == 0 and i not in fixed]
    second = [j for j in places if j % 2 == 1 and j not in fixed]
    best = {i: max(cosine(keys[i], keys[j]) for j in second) for i in first}
    assert len(set(source)) == len(source) and set(source) <= set(first) and set(target) <= set(second)
    for i, j in zip(source, target, strict=True):
        assert cosine(keys[i], keys[j]) > best[i] - TIE
    ranked = sorted(best.values(), reverse=True)
    for i, score in zip(source, ranked, strict=False):
        assert abs(best[i] - score) < TIE


@pytest.mark.parametrize("fixed", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_loops(fixed: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for length in (4, 5, 9, 30):
        keys = torch.randn(3, length, 5).to(dtype)
        most = (length - len(fixed)) // 2
        for merges in {0, 1, most // 2, most}:
            found = soft_matching(keys, merges, fixed=fixed)
            assert found.source.shape == found.target.shape == (3, merges)
            for n in range(3):
                check(keys[n].double().tolist(), found.source[n].tolist(), found.target[n].tolist(), fixed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=2, max_size=14), st.data())
def test_duplicates_and_zeros(keys: list[list[int]], data: st.DataObject) -> None:
    merges = data.draw(st.integers(0, len(keys) // 2))
    found = soft_matching(torch.tensor([keys], dtype=torch.float32), merges)
    check(keys, found.source[0].tolist(), found.target[0].tolist())


def test_equal_scores_go_to_the_lower_index() -> None:
    found = soft_matching(torch.ones(1, 8, 3), 3)
    assert (found.source.tolist(), found.target.tolist()) == ([[0, 2, 4]], [[1, 1, 1]])
    found = soft_matching(torch.ones(1, 8, 3), 3, fixed=(0, 1))
    assert (found.source.tolist(), found.target.tolist()) == ([[2, 4, 6]], [[3, 3, 3]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(0, 15))
def test_a_batch_equals_its_images(seed: int, length: int, merges: int) -> None:
    keys = torch.randn(3, length, 16, generator=torch.Generator().manual_seed(seed))
    together = soft_matching(keys, min(merges, length // 2))
    for n in range(3):
        alone = soft_matching(keys[n : n + 1], min(merges, length // 2))
        assert torch.equal(alone.source[0], together.source[n]) and torch.equal(alone.target[0], together.target[n])


def test_padding_takes_no_part() -> None:
    torch.manual_seed(1)
    keys, padding = torch.randn(2, 12, 4), torch.zeros(2, 12, dtype=torch.bool)
    padding[:, 9:] = True
    padding[1, 3] = True
    view = LayerView(hidden=keys, sizes=torch.ones(2, 12), keys=keys, protected=padding)
    found = ToMe(4).match(view, 4)
    for n in range(2):
        real = (~padding[n]).nonzero()[:, 0]
        alone = soft_matching(keys[n, real][None], 4)
        assert torch.equal(real[alone.source[0]], found.source[n]) and torch.equal(
            real[alone.target[0]], found.target[n]
        )


def test_settings() -> None:
    pruner = ToMe(64)
    assert (pruner.schedule, pruner.order, pruner.proportional_attention) == ("mean", "raster", True)
    assert pruner.needs == {"keys"}
    assert pruner.merges(576, 23) == tuple([23] * 6 + [22] * 17) and sum(pruner.merges(576, 23)) == 512
    with pytest.raises(ValueError, match="did you mean 'raster'"):
        ToMe(64, order="rastr")
    with pytest.raises(ValueError, match="neither True nor False"):
        ToMe(64, proportional_attention=1)
    with pytest.raises(ValueError, match="no keys"):
        pruner.match(LayerView(hidden=torch.rand(1, 4, 2), sizes=torch.ones(1, 4)), 1)


def test_official_rates_are_schedules() -> None:
    counts = rates(5, 8)
    assert counts == (8,) * 5 and sum(ToMe(24, schedule=counts).merges(64, 5)) == 40
    assert rates(1, 8, -1.0) == (16,)
    falling = rates(6, 10, -1.0)
    assert falling[0] == 20 and falling[-1] == 0 and list(falling) == sorted(falling, reverse=True)


def test_it_is_evoprune_without_its_additions() -> None:
    torch.manual_seed(2)
    keys = torch.randn(2, 20, 4)
    view = LayerView(hidden=torch.randn(2, 20, 8), sizes=torch.ones(2, 20), keys=keys)
    bare = EvoPrune(8, attention=False, diversity=0.0, features="keys", partition="index")
    for one, other in zip(ToMe(8).match(view, 6), bare.match(view, 6), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("change", [{}, {"order": "tome"}, {"proportional_attention": False}], ids=str)
@torch.no_grad()
def test_hooks_compute_what_the_literal_loop_computes(attention: str, change: dict[str, Any]) -> None:
    model, pruner = builders.model(attention=attention), ToMe(16, **change)
    pixels = builders.inputs(["<image> <image>"], [0, 1])["pixel_values"]
    expected = model.model.multi_modal_projector(literal.tower(model, pixels, pruner, 5)[:, 1:])
    with apply(model, pruner) as handle:
        found = torch.stack(list(model.model.get_image_features(pixels).pooler_output))
        assert handle.stats.tokens == (54, 44, 34, 25, 16)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_flops_are_those_that_run() -> None:
    """Scores between the groups, of keys as wide as one head, are all that choosing costs."""
    model, pixels = builders.model(attention="eager"), builders.inputs(["<image>"], [0])["pixel_values"]
    with apply(model, ToMe(16)) as handle, kernels.reference_path():
        with FlopCounterMode(display=False) as counter:
            model.model.vision_tower(pixels)
        pairs = sum((tokens + 1) // 2 * (tokens // 2) for tokens in (64, 54, 44, 34, 25))
        assert handle.stats.selection_flops == 2 * pairs * 8
        patches = flops.linear(64, 3 * builders.PATCH**2, 32)
        assert counter.get_total_flops() == handle.stats.flops + handle.stats.selection_flops + patches


def test_conformance_takes_any_form() -> None:
    """Sizes and chains that the files of `tests/golden` do not have."""
    torch.manual_seed(4)
    x = torch.randn(3, 13, 5)
    chain = {"x": x} | {f"w{i}": torch.randn(5, 5) for i in range(2)}
    found = conformance(chain, {"r_per_step": [4, 3], "class_token": True})
    assert found["x_out"].shape == (3, 6, 5) and found["source_out"].shape == (3, 6, 13)
    assert torch.equal(found["source_out"].sum(1), torch.ones(3, 13))
    assert torch.equal(found["source_out"].sum(2), found["size_out"][..., 0])
    torch.testing.assert_close(found["source_out"] @ x / found["size_out"], found["x_out"])
    one = conformance({"metric": x, "x": x}, {"r_requested": 50, "class_token": False, "distill_token": True})
    assert one["x_out"].shape == (3, 7, 5) and torch.equal(one["x_out"][:, 1], x[:, 1])
    none = conformance({"metric": x[:, :1], "x": x[:, :1]}, {"r_requested": 3, "class_token": True})
    assert torch.equal(none["x_out"], x[:, :1])
