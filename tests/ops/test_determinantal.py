"""Greedy MAP of a determinantal point process, against determinants written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from evoprune.ops import cosines
from evoprune.ops.determinantal import greedy_map

TIE = 1e-5  # two picks whose float64 gains differ by less are both right


def determinant(matrix: list[list[float]]) -> float:
    """Return the determinant by Laplace's expansion of the first row."""
    if not matrix:
        return 1.0
    minors = ([row[:j] + row[j + 1 :] for row in matrix[1:]] for j in range(len(matrix)))
    return sum((-1) ** j * matrix[0][j] * determinant(minor) for j, minor in enumerate(minors))


def on(kernel: list[list[float]], chosen: list[int]) -> float:
    return determinant([[kernel[i][j] for j in chosen] for i in chosen])


def check(kernel: list[list[float]], picks: list[int]) -> int:
    """Check that every pick makes the determinant largest; return how many were ties."""
    ties = 0
    for step, pick in enumerate(picks):
        before = picks[:step]
        gains = {i: on(kernel, [*before, i]) / on(kernel, before) for i in range(len(kernel)) if i not in before}
        best = max(gains.values())
        assert pick in gains and gains[pick] > best - TIE, (step, pick, gains)
        ties += sum(gain > best - TIE for gain in gains.values()) > 1
    return ties


def cosine(features: torch.Tensor) -> torch.Tensor:
    values = torch.nn.functional.normalize(features.double(), dim=-1)
    return values @ values.transpose(-1, -2)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_pick_makes_the_determinant_largest(weighted: bool) -> None:
    torch.manual_seed(0)
    for length, width, keep in ((3, 8, 3), (7, 12, 5), (8, 6, 5)):
        features = torch.randn(4, length, width)
        weights = torch.rand(4, length) + 0.05 if weighted else torch.ones(4, length)
        kernel = weights.double()[:, :, None] * cosine(features) * weights.double()[:, None, :]
        picks = greedy_map(cosines(features), keep, weights=weights if weighted else None)
        assert picks.dtype == torch.int64 and picks.shape == (4, keep)
        # Cosines give every token the same start: the first pick of all is a tie there.
        ties = sum(check(one, row) for one, row in zip(kernel.tolist(), picks.tolist(), strict=True))
        assert ties <= (0 if weighted else 4)
        built = weights[:, :, None] * cosines(features) * weights[:, None, :]
        assert torch.equal(greedy_map(built, keep), picks)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 24), st.integers(1, 24), st.data())
def test_beyond_the_rank_it_fills_by_score_without_repeating(seed: int, length: int, width: int, data: st.DataObject):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, length, width, generator=generator)
    scores, keep = torch.rand(2, length, generator=generator), data.draw(st.integers(1, length))
    picks = greedy_map(cosines(features), keep, fill=scores)
    for row, score in zip(picks.tolist(), scores.tolist(), strict=True):
        assert len(set(row)) == keep
        rest = row[min(width, length) :]
        assert [score[i] for i in rest] == sorted((score[i] for i in rest), reverse=True)
    bare = greedy_map(cosines(features), keep)
    assert torch.equal(bare[:, :width], picks[:, :width])
    assert (bare[:, width:].diff(dim=1) > 0).all()


def test_the_rank_of_wide_features_is_found() -> None:
    """64 dimensions in 4096, as projected features have; noise of float32 is no gain."""
    torch.manual_seed(0)
    features = torch.randn(2, 200, 12) @ torch.randn(12, 4096) + 3.0 * torch.randn(1, 1, 4096)
    scores = torch.rand(2, 200)
    picks = greedy_map(cosines(features), 40, weights=scores, fill=scores)
    for row, score in zip(picks, scores, strict=True):
        rest = score[row[13:]]  # 12 directions and the offset
        assert (rest.diff() <= 0).all() and len(set(row.tolist())) == 40


def test_small_weights_are_no_lack_of_rank() -> None:
    """A copy of a pick has nothing to add, whatever its weight; a token of small weight has."""
    features = torch.eye(4)[[0, 0, 0, 1, 2]][None]
    weights = torch.tensor([[1.0, 0.9, 0.8, 1e-3, 1e-5]])
    assert greedy_map(cosines(features), 5, weights=weights, fill=weights).tolist() == [[0, 3, 4, 1, 2]]
    assert greedy_map(cosines(features), 5, weights=weights, fill=-weights).tolist() == [[0, 3, 4, 2, 1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.data())
def test_a_batch_equals_its_images_and_padding_is_not_there(seed: int, length: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(3, length, 8, generator=generator), torch.rand(3, length, generator=generator)
    padded = torch.rand(3, length, generator=generator) < 0.3
    padded[:, 0] = False
    keep = data.draw(st.integers(1, int((~padded).sum(1).min())))
    together = greedy_map(cosines(features), keep, weights=scores, fill=scores, protected=padded)
    for one, score, mask, row in zip(features, scores, padded, together, strict=True):
        real = (~mask).nonzero()[:, 0]
        alone = greedy_map(cosines(one[real][None]), keep, weights=score[real][None], fill=score[real][None])
        assert torch.equal(real[alone[0]], row)


def test_equal_gains_go_to_the_lower_index() -> None:
    assert greedy_map(torch.eye(5)[None], 5).tolist() == [[0, 1, 2, 3, 4]]
    assert greedy_map(torch.ones(2, 4, 4), 4).tolist() == [[0, 1, 2, 3]] * 2
    assert greedy_map(torch.ones(1, 4, 4), 4, fill=torch.tensor([[0.0, 1.0, 3.0, 3.0]])).tolist() == [[0, 2, 3, 1]]


def test_what_is_no_number_is_never_picked_twice_nor_first() -> None:
    kernel = cosines(torch.randn(1, 6, 8))
    kernel[0, 2], kernel[0, :, 2] = math.nan, math.nan
    weights = torch.tensor([[1.0, 0.5, 9.0, math.nan, 0.0, 0.2]])
    (picks,) = greedy_map(kernel, 6, weights=weights, fill=torch.tensor([[0, 0, 0, 1.0, math.nan, 0]])).tolist()
    assert sorted(picks[:3]) == [0, 1, 5] and picks[3:] == [3, 2, 4]
    zero = greedy_map(torch.zeros(2, 3, 3), 3)
    assert zero.tolist() == [[0, 1, 2]] * 2
    few = torch.tensor([[False, True, True]])  # fewer tokens than picks: padding comes once, and last
    assert greedy_map(torch.eye(3)[None], 3, protected=few, fill=torch.tensor([[0.0, 1.0, 2.0]])).tolist() == [
        [0, 2, 1]
    ]


def test_half_precision_and_empty_batches() -> None:
    kernel = cosines(torch.randn(2, 9, 16))
    half = greedy_map(kernel.bfloat16(), 4)
    assert torch.equal(half, greedy_map(kernel.bfloat16().float(), 4))
    assert greedy_map(torch.zeros(0, 5, 5), 2).shape == (0, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(greedy_map(kernel, 4), greedy_map(kernel, 4))


@pytest.mark.parametrize(
    ("shape", "keep", "extra", "words"),
    [
        ((4, 4), 1, {}, "give (B, N, N)"),
        ((1, 4, 3), 1, {}, "give (B, N, N)"),
        ((1, 4, 4), 0, {}, "keep=0 is outside 1..4"),
        ((1, 4, 4), 5, {}, "keep=5 is outside 1..4"),
        ((1, 4, 4), 2, {"weights": (1, 3)}, "weights has shape (1, 3): give (1, 4)"),
        ((1, 4, 4), 2, {"fill": (4,)}, "fill has shape (4,): give (1, 4)"),
        ((1, 4, 4), 2, {"protected": (2, 4)}, "protected has shape (2, 4): give (1, 4)"),
    ],
)
def test_refusals(shape: tuple[int, ...], keep: int, extra: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        greedy_map(torch.zeros(shape), keep, **{name: torch.zeros(size) for name, size in extra.items()})
    assert words in str(raised.value)


def test_shapes_do_not_depend_on_data_and_it_compiles_without_breaks() -> None:
    kernel, scores = cosines(torch.randn(2, 12, 6)), torch.rand(2, 12)
    with FakeTensorMode() as mode:
        fake, values = mode.from_tensor(kernel), mode.from_tensor(scores)
        assert greedy_map(fake, 9, weights=values, fill=values, protected=values > 0.9).shape == (2, 9)
    compiled = torch.compile(greedy_map, fullgraph=True, backend="eager")
    wanted = greedy_map(kernel, 9, weights=scores, fill=scores)
    assert torch.equal(compiled(kernel, 9, weights=scores, fill=scores), wanted)
