"""The sanity baselines: which places, which cells, which averages, and the true counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune import AdaptivePool, Downsample, EvoPrune, KeepFirst, Random, UniformGrid, apply
from evoprune.pruners import METHODS, FeatureView
from tests import builders

SANITY = ("random", "grid", "pool", "first", "downsample")


def edges(length: int, cells: int) -> list[tuple[int, int]]:
    """Return where each of `cells` adaptive cells of `length` units begins and ends."""
    return [(math.floor(i * length / cells), math.ceil((i + 1) * length / cells)) for i in range(cells)]


def literal(values: torch.Tensor, grid: tuple[int, int], cells: tuple[int, int]) -> list[list[float]]:
    """Return the averages of one image's units (N, U) over cells, row by row, by loops over float64."""
    rows = values.double().view(*grid, -1).tolist()
    tokens = []
    for top, bottom in edges(grid[0], cells[0]):
        for left, right in edges(grid[1], cells[1]):
            inside = [rows[r][c] for r in range(top, bottom) for c in range(left, right)]
            tokens.append([sum(one[u] for one in inside) / len(inside) for u in range(values.shape[1])])
    return tokens


def test_all_of_them_say_what_they_are() -> None:
    assert all(METHODS[name].source == "sanity baseline" for name in SANITY)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.booleans(), st.data())
def test_pool_equals_loops_over_cells(rows: int, columns: int, patches: int, merged: bool, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, rows * columns))
    pruner = AdaptivePool(keep)
    left = pruner.tokens_after(rows * columns)
    if left == rows * columns:
        return  # nothing to do
    side = math.isqrt(keep)
    assert left == side * side <= keep < (side + 1) ** 2
    grid, cells = ((1, rows * columns), (1, left)) if merged else ((rows, columns), (side, side))
    view = FeatureView(torch.randn(2, rows * columns, 5), grid=None if merged else grid)
    units = torch.randn(2, rows * columns, patches * 5)
    chosen = pruner.select(view, left)
    tokens, held = pruner.combine(units, view, chosen), pruner.standing(view, chosen)
    assert chosen.shape == (2, left)
    assert held.shape == (2, rows * columns)
    for n in range(2):
        wanted = torch.tensor(literal(units[n], grid, cells))
        torch.testing.assert_close(tokens[n].double(), wanted.double(), atol=1e-5, rtol=1e-5)
        boxes = [(top, bottom) for top in edges(grid[0], cells[0]) for bottom in edges(grid[1], cells[1])]
        for token, ((top, bottom), (begin, end)) in enumerate(boxes):
            row, column = divmod(int(chosen[n, token]), grid[1])
            # The unit under the middle: of an even number, the lower one of the two that meet there.
            assert row == min(int((token // cells[1] + 0.5) * grid[0] / cells[0]), grid[0] - 1)
            assert column == min(int((token % cells[1] + 0.5) * grid[1] / cells[1]), grid[1] - 1)
            assert top <= row < bottom
            assert begin <= column < end
        for unit in range(rows * columns):  # each unit is averaged into the token that is said to hold it
            (top, bottom), (begin, end) = boxes[int(held[n, unit])]
            assert top <= unit // grid[1] < bottom
            assert begin <= unit % grid[1] < end
        if cells[0] <= grid[0] and cells[1] <= grid[1]:
            assert torch.equal(held[n][chosen[n]], torch.arange(left))  # and a token holds its own place


def test_pool_of_a_share_and_of_everything() -> None:
    assert AdaptivePool(64).tokens_after(576) == 64
    assert AdaptivePool(50).tokens_after(576) == 49
    assert AdaptivePool(0.25).tokens_after(729) == 169
    assert AdaptivePool(1).tokens_after(2) == 1
    assert AdaptivePool(1.0).tokens_after(60) == AdaptivePool(60).tokens_after(60) == 60  # no square: left alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pool_sums_in_float32(dtype: torch.dtype) -> None:
    units = torch.randn(1, 576, 8).to(dtype)
    view = FeatureView(units, grid=(24, 24))
    tokens = AdaptivePool(9).combine(units, view, AdaptivePool(9).select(view, 9))
    assert tokens.dtype == dtype
    wanted = torch.tensor(literal(units[0], (24, 24), (3, 3)))
    torch.testing.assert_close(tokens[0].double(), wanted.double(), atol=1e-6, rtol=torch.finfo(dtype).eps)


def test_first_and_grid_and_random() -> None:
    view = FeatureView(torch.zeros(3, 20, 2))
    assert KeepFirst(7).select(view, 7).tolist() == [list(range(7))] * 3
    for keep in range(1, 21):
        wanted = [math.floor((2 * i + 1) * 20 / (2 * keep)) for i in range(keep)]
        assert UniformGrid(keep).select(view, keep).tolist() == [wanted] * 3
        found = [Random(keep, seed=seed).select(view, keep) for seed in (0, 0, 1)]
        assert torch.equal(found[0], found[1])
        assert len(set(found[2][0].tolist())) == keep


@pytest.mark.parametrize(
    ("pruner", "count"),
    [
        (Random(10), 10), (UniformGrid(10), 10), (KeepFirst(10), 10), (AdaptivePool(10), 9), (Downsample(10), 9),
        (AdaptivePool(0.5), 25), ([EvoPrune(32), AdaptivePool(10)], 9), ([Downsample(36), AdaptivePool(10)], 9),
        ([Downsample(40), KeepFirst(10)], 10),
    ],
    ids=repr,
)  # fmt: skip
@torch.no_grad()
def test_the_true_count_is_told(llava: Any, pruner: Any, count: int) -> None:
    x = builders.inputs(["<image> a"], [1])
    with apply(llava, pruner) as handle:
        logits = llava(**x).logits
        assert handle.stats.visual_tokens == (count,)
        assert logits.shape[1] == x["input_ids"].shape[1] - 64 + count
        assert handle.stats.positions.shape == (1, count)
        assert f"visual_tokens=({count},)" in repr(handle.stats)
