"""Maximal marginal relevance, against loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from evoprune.ops.marginal_relevance import maximal_marginal_relevance as mmr

TIE = 1e-5


def cosine(x: list[float], y: list[float]) -> float:
    lengths = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(p * q for p, q in zip(x, y, strict=True)) / lengths if lengths else 0.0


def check(tokens: list[list[float]], scores: list[float], picks: list[int], balance: float, parallel: int) -> None:
    """Check each batch of picks: those left out are worth no more, and they come by falling worth."""
    for begin in range(0, len(picks), parallel):
        before, now = picks[:begin], picks[begin : begin + parallel]
        left = [i for i in range(len(tokens)) if i not in before]
        worth = {
            i: balance * scores[i] - (1 - balance) * max(cosine(tokens[i], tokens[j]) for j in before)
            if before
            else scores[i]
            for i in left
        }
        values = [worth[i] for i in now]
        assert all(one > other - TIE for one, other in pairwise(values))
        assert min(values) > max((worth[i] for i in left if i not in now), default=-math.inf) - TIE


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("balance", [0.0, 0.5, 0.9, 1.0])
def test_equals_loops(balance: float, parallel: int) -> None:
    torch.manual_seed(0)
    for length, keep in ((1, 1), (9, 4), (20, 20), (30, 7)):
        features, scores = torch.randn(3, length, 5), torch.rand(3, length)
        picks = mmr(features, scores, keep, balance=balance, parallel=parallel)
        assert picks.dtype == torch.int64 and picks.shape == (3, keep)
        for one, score, row in zip(features.double().tolist(), scores.double().tolist(), picks.tolist(), strict=True):
            assert len(set(row)) == keep
            check(one, score, row, balance, parallel)


def test_importance_alone_is_top_and_ties_go_to_the_lower_index() -> None:
    features, scores = torch.randn(1, 5, 3), torch.tensor([[0.1, 0.9, 0.3, 0.9, 0.3]])
    for parallel in (1, 2, 9):
        assert mmr(features, scores, 5, balance=1.0, parallel=parallel).tolist() == [[1, 3, 2, 4, 0]]
    assert mmr(torch.ones(2, 4, 2), torch.zeros(2, 4), 4).tolist() == [[0, 1, 2, 3]] * 2


def test_a_copy_of_a_pick_comes_last() -> None:
    features = torch.eye(3)[[0, 0, 1, 2]][None]
    assert mmr(features, torch.tensor([[1.0, 0.9, 0.3, 0.2]]), 4).tolist() == [[0, 2, 3, 1]]
    assert mmr(features, torch.tensor([[1.0, 0.9, 0.3, 0.2]]), 4, parallel=2).tolist() == [[0, 1, 2, 3]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(1, 4), st.data())
def test_a_batch_equals_its_images_and_padding_is_not_there(
    seed: int, length: int, parallel: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(3, length, 8, generator=generator), torch.rand(3, length, generator=generator)
    padded = torch.rand(3, length, generator=generator) < 0.3
    padded[:, 0] = False
    keep = data.draw(st.integers(1, int((~padded).sum(1).min())))
    balance = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    chosen = {"balance": balance, "parallel": parallel}
    together = mmr(features, scores, keep, protected=padded, **chosen)
    for one, score, mask, row in zip(features, scores, padded, together, strict=True):
        real = (~mask).nonzero()[:, 0]
        assert torch.equal(real[mmr(one[real][None], score[real][None], keep, **chosen)[0]], row)


def test_broken_values_are_picked_once() -> None:
    features, scores = torch.randn(1, 6, 3), torch.tensor([[math.nan, 0.5, math.inf, -math.inf, 0.1, 0.2]])
    features[0, 1], features[0, 4, 0] = 0.0, math.nan
    for balance in (0.0, 0.5, 1.0):
        assert sorted(mmr(features, scores, 6, balance=balance)[0].tolist()) == list(range(6))
    assert mmr(features, scores, 4, balance=1.0).tolist() == [[2, 1, 5, 4]]
    few = torch.tensor([[False, True, True]])  # fewer tokens than picks: padding comes once, and last
    assert mmr(torch.randn(1, 3, 2), torch.tensor([[0.0, 1.0, 2.0]]), 3, protected=few).tolist() == [[0, 1, 2]]
    assert mmr(torch.randn(0, 5, 4), torch.rand(0, 5), 2).shape == (0, 2)


@pytest.mark.parametrize(
    ("shape", "keep", "extra", "words"),
    [
        ((4, 2), 1, {}, "give (B, N, C)"),
        ((1, 4, 2), 0, {}, "keep=0 is outside 1..4"),
        ((1, 4, 2), 5, {}, "keep=5 is outside 1..4"),
        ((1, 4, 2), 2, {"parallel": 0}, "parallel=0 is below 1"),
        ((1, 3, 2), 2, {}, "importance has shape (1, 4): give (1, 3)"),
        ((1, 4, 2), 2, {"protected": torch.zeros(1, 3, dtype=torch.bool)}, "protected has shape (1, 3): give (1, 4)"),
    ],
)
def test_refusals(shape: tuple[int, ...], keep: int, extra: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        mmr(torch.zeros(shape), torch.zeros(1, 4), keep, **extra)
    assert words in str(raised.value)


def test_shapes_do_not_depend_on_data_and_it_compiles_without_breaks() -> None:
    features, scores = torch.randn(2, 12, 6), torch.rand(2, 12)
    with FakeTensorMode() as mode:
        assert mmr(mode.from_tensor(features), mode.from_tensor(scores), 7, parallel=2).shape == (2, 7)
    compiled = torch.compile(mmr, fullgraph=True, backend="eager")
    assert torch.equal(compiled(features, scores, 7, parallel=2), mmr(features, scores, 7, parallel=2))
