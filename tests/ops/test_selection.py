"""Max-min diversity against loops over float64, and where it has to be defined: ties, duplicates, zeros, padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.ops import selection
from evoprune.ops.selection import max_min_diversity

TIE = 1e-5  # two picks whose float64 distances differ by less are both right


def distances(tokens: list[list[float]]) -> list[list[float]]:
    """Return 1 - cos of all pairs, by loops; a zero vector has distance 1 to all."""
    norms = [math.sqrt(sum(v * v for v in x)) for x in tokens]
    return [
        [
            1 - sum(p * q for p, q in zip(x, y, strict=True)) / (norms[i] * norms[j]) if norms[i] and norms[j] else 1.0
            for j, y in enumerate(tokens)
        ]
        for i, x in enumerate(tokens)
    ]


def farthest(distance: list[list[float]], picked: list[int], real: list[int]) -> dict[int, float]:
    """Return for each token that may come next how far it is from its nearest one; that decides."""
    if not picked:
        return {i: min((distance[i][j] for j in real if j != i), default=0.0) for i in real}
    return {i: min(distance[i][j] for j in picked) for i in real if i not in picked}


def check(features: torch.Tensor, picks: list[int], real: list[int]) -> int:
    """Check every pick against the literal distances; return how many were ties."""
    distance, ties = distances(features.double().tolist()), 0
    for step, pick in enumerate(picks):
        left = farthest(distance, picks[:step], real)
        best = max(left.values())
        assert pick in left and left[pick] > best - TIE, (step, pick)
        ties += sum(value > best - TIE for value in left.values()) > 1
    return ties


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equals_loops(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for length, keep in ((2, 2), (9, 4), (30, 30), (40, 7)):
        features = torch.randn(3, length, 5).to(dtype)
        picks = max_min_diversity(features, keep)
        assert picks.dtype == torch.int64 and picks.shape == (3, keep)
        ties = sum(check(one, row, list(range(length))) for one, row in zip(features, picks.tolist(), strict=True))
        assert ties <= 3 * 2  # the first pick, and what rounds to one value


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    st.data(),
)
def test_picks_are_distinct_and_farthest_among_duplicates_and_zeros(
    tokens: list[list[int]], data: st.DataObject
) -> None:
    """Small whole numbers: many tokens of one direction, zero vectors and exact ties."""
    keep = data.draw(st.integers(1, len(tokens)))
    features = torch.tensor(tokens, dtype=torch.float32)
    (picks,) = max_min_diversity(features[None], keep).tolist()
    assert len(set(picks)) == keep
    check(features, picks, list(range(len(tokens))))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.data())
def test_a_batch_equals_its_images_and_padding_is_not_there(seed: int, length: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, length, 16, generator=generator)
    padded = torch.rand(3, length, generator=generator) < 0.3
    padded[:, 0] = False
    keep = data.draw(st.integers(1, int((~padded).sum(1).min())))
    together = max_min_diversity(features, keep, protected=padded)
    for one, mask, row in zip(features, padded, together, strict=True):
        assert torch.equal(max_min_diversity(one[None], keep, protected=mask[None])[0], row)
        real = (~mask).nonzero()[:, 0]
        assert torch.equal(real[max_min_diversity(one[real][None], keep)[0]], row)


def test_equal_distances_go_to_the_lower_index() -> None:
    same = torch.ones(2, 7, 4)
    assert max_min_diversity(same, 7).tolist() == [list(range(7))] * 2
    axes = torch.eye(5)[None]
    assert max_min_diversity(axes, 5).tolist() == [list(range(5))]
    # 1 and 3 are each other's nearest, and farther from it than all others are from theirs.
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [-1.0, 0.9], [1.0, -0.1]])
    assert max_min_diversity(apart[None], 1).tolist() == [[1]]


def test_two_most_isolated_tokens_tie_whatever_the_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have one nearest distance, to each other; the product of all pairs need not be symmetric in its bits."""
    cosine = torch.full((1, 5, 5), 0.9)
    cosine[0, 1, 3], cosine[0, 3, 1] = 0.5, 0.5 - 6e-8
    cosine[0, [1, 1, 1, 3, 3, 3], [0, 2, 4, 0, 2, 4]] = cosine[0, [0, 2, 4, 0, 2, 4], [1, 1, 1, 3, 3, 3]] = 0.1
    for product in (cosine, cosine.transpose(1, 2)):
        monkeypatch.setattr(selection, "cosines", lambda features, product=product: product.clone())
        assert max_min_diversity(torch.zeros(1, 5, 2), 1).tolist() == [[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_near_duplicates_are_never_picked_twice(dtype: torch.dtype) -> None:
    """In half precision the official code picks the same token again and again."""
    torch.manual_seed(1)
    features = (torch.randn(1, 1, 64) + 1e-3 * torch.randn(2, 60, 64)).to(dtype)
    picks = max_min_diversity(features, 60)
    assert torch.equal(picks.sort(dim=1).values, torch.arange(60).expand(2, 60))


def test_zero_and_broken_vectors() -> None:
    features = torch.zeros(1, 4, 3)
    assert max_min_diversity(features, 4).tolist() == [[0, 1, 2, 3]]
    features = torch.randn(1, 6, 3)
    features[0, 2], features[0, 4, 0] = float("nan"), float("inf")
    (picks,) = max_min_diversity(features, 6).tolist()
    assert sorted(picks) == list(range(6))


def test_one_token_and_one_pick() -> None:
    assert max_min_diversity(torch.randn(3, 1, 4), 1).tolist() == [[0]] * 3
    assert max_min_diversity(torch.randn(0, 5, 4), 2).shape == (0, 2)
    few = torch.tensor([[False, True, True]])  # fewer tokens than picks: padding is picked, once, and last
    assert max_min_diversity(torch.randn(1, 3, 2), 3, protected=few).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("shape", "keep", "words"),
    [((4, 2), 1, "give (B, N, C)"), ((1, 4, 2), 0, "keep=0 is outside 1..4"), ((1, 4, 2), 5, "keep=5 is outside 1..4")],
)
def test_refusals(shape: tuple[int, ...], keep: int, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        max_min_diversity(torch.zeros(shape), keep)
    assert words in str(raised.value)
    with pytest.raises(ValueError, match="one value a token"):
        max_min_diversity(torch.zeros(1, 4, 2), 2, protected=torch.zeros(1, 3, dtype=torch.bool))


def test_compiles_without_breaks() -> None:
    compiled = torch.compile(max_min_diversity, fullgraph=True, backend="eager")
    features = torch.randn(2, 20, 6)
    assert torch.equal(compiled(features, 5), max_min_diversity(features, 5))
