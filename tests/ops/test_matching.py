"""`match` against the literal reference, on more than 10,000 random images."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from evoprune import ops
from tests import reference

KINDS = ("gauss", "near", "duplicates", "zeros", "opposite", "same", "narrow")
SIMILARITIES = ("cosine", "sigmoid", "softmax")


def picture(kind: str, length: int, width: int, rng: torch.Generator) -> torch.Tensor:
    x = torch.randn(length, width, generator=rng)
    if kind == "near":  # clusters, as in real pictures
        centres = torch.randn(max(2, length // 6), width, generator=rng)
        x = centres[torch.randint(len(centres), (length,), generator=rng)] + 0.3 * x
    elif kind == "duplicates":
        x = x[torch.randint(max(2, length // 2), (length,), generator=rng)]
    elif kind == "zeros":
        x[torch.rand(length, generator=rng) < 0.3] = 0
    elif kind == "opposite":  # group a and group b point away from each other: every cosine is negative
        x = x.abs() * torch.tensor([1.0, -1.0]).repeat(length)[:length, None]
    elif kind == "same":
        x = x[:1].expand(length, width).clone()
    elif kind == "narrow":  # one strong common direction, as raw hidden states have
        x = 3 * torch.randn(width, generator=rng) + x
    return x


def importances(length: int, rng: torch.Generator, crowd: int) -> torch.Tensor:
    s = torch.rand(length, generator=rng)
    if crowd == 1:
        s = torch.randint(3, (length,), generator=rng).float()  # many equals
    elif crowd >= 2:
        s[crowd % 2 :: 2] += 1  # the important ones crowd one parity class
    return s


def run(cases: int, lengths: tuple[int, int], images: int, seed: int, fast: bool) -> int:
    """Check `cases` random images in batches of `images`; return the number of ties."""
    draw, rng, ties = random.Random(seed), torch.Generator().manual_seed(seed), 0
    for _ in range(cases // images):
        length = draw.randint(*lengths)
        # Many tokens on a sphere of few dimensions lie closer together than float32 cosines resolve to 1e-5.
        width = draw.choice((5, 16, 33) if length < 60 else (16, 33, 64))
        padded = draw.random() < 0.3
        real = [draw.randint(max(2, length // 2), length) if padded else length for _ in range(images)]
        most = min(real) // 2
        r = draw.choice((0, 1, most, most, draw.randint(0, most)))
        dtype = draw.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
        settings = {
            "critical_ratio": draw.choice((0.0, 0.1, 0.25, 0.29, 0.5, 1.0)),
            "neighbors": draw.choice((1, 5, 5, 40)),
            "bandwidth": draw.choice((None, None, 0.7)),
            "diversity": draw.choice((0.0, 1.0, 1.0, 3.0)),
            "similarity": draw.choice(SIMILARITIES),
            "partition": draw.choice(("index", "mergeable")),
        }
        x = torch.stack([picture(draw.choice(KINDS), length, width, rng) for _ in range(images)]).to(dtype)
        s = torch.stack([importances(length, rng, draw.randrange(4)) for _ in range(images)])
        absent = torch.zeros(images, length, dtype=torch.bool)
        for row, n in enumerate(real):
            absent[row, torch.randperm(length, generator=rng)[n:]] = True
        with_importance = s if draw.random() < 0.9 else None
        found = ops.match(x, with_importance, r, protected=absent if padded else None, **settings)
        for row in range(images):
            ties += verify(found, row, x, with_importance, r, settings, absent, fast)
    return ties


def verify(found, row, x, s, r, settings, absent, fast) -> int:
    if r == 0:  # with everything protected there are no groups to score
        assert found.kept[row].tolist() == list(range(x.shape[1]))
        return 0
    wide = x[row].double()
    given = (None if s is None else s[row].tolist(), r)
    if fast:
        scores, a, b = reference.pair_scores_fast(wide.numpy(), *given, padding=absent[row].numpy(), **settings)
    else:
        table, a, b = reference.pair_scores(wide.tolist(), *given, padding=absent[row].tolist(), **settings)
        scores = np.array([[table[i, j] for j in b] for i in a])
    pairs = (getattr(found, name)[row].tolist() for name in ("source", "target", "kept"))
    return reference.check_matching(*pairs, scores, a, b, r)


@pytest.mark.parametrize(
    ("cases", "lengths", "images", "fast"),
    [(6000, (4, 14), 20, False), (6000, (15, 90), 15, True), (80, (91, 800), 2, True)],
    ids=["small", "medium", "large"],
)
def test_equals_reference_up_to_ties(cases, lengths, images, fast):
    ties = run(cases, lengths, images, seed=cases, fast=fast)
    print(f"\n{cases} images of {lengths[0]} to {lengths[1]} tokens: {ties} ties")


def test_both_references_agree():
    rng = torch.Generator().manual_seed(3)
    for kind in KINDS:
        for similarity in SIMILARITIES:
            for partition in ("index", "mergeable"):
                x = picture(kind, 11, 4, rng).double()
                s = importances(11, rng, 2).tolist()
                options = {"similarity": similarity, "partition": partition}
                table, a, b = reference.pair_scores(x.tolist(), s, 3, **options)
                scores, a2, b2 = reference.pair_scores_fast(x.numpy(), s, 3, **options)
                assert (a, b) == (a2, b2)
                assert np.allclose(scores, [[table[i, j] for j in b] for i in a], atol=1e-12)


def test_no_tokens_merge():
    x = torch.randn(2, 5, 3)
    found = ops.match(x, torch.rand(2, 5), 0)
    assert found.source.shape == found.target.shape == (2, 0)
    assert found.source.dtype == found.kept.dtype == torch.int64
    assert found.kept.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_half_of_the_tokens_merge():
    for length in (4, 5, 576, 729):
        for partition in ("index", "mergeable"):
            found = ops.match(torch.randn(2, length, 8), torch.rand(2, length), length // 2, partition=partition)
            assert found.kept.shape == (2, length - length // 2)


def test_lower_index_wins_ties():
    x = torch.ones(1, 9, 4)
    found = ops.match(x, None, 3, partition="index")
    assert found.source.tolist() == [[0, 2, 4]]
    assert found.target.tolist() == [[1, 1, 1]]
    found = ops.match(x, torch.ones(1, 9), 2, critical_ratio=0.5, partition="mergeable")  # S = 0, 1, 2, 3
    assert (found.source.tolist(), found.target.tolist()) == ([[4, 6]], [[5, 5]])


def test_batch_equals_singles():
    x, s = torch.randn(6, 30, 16), torch.rand(6, 30)
    together = ops.match(x, s, 7)
    for row in range(6):
        alone = ops.match(x[row : row + 1], s[row : row + 1], 7)
        assert torch.equal(together.source[row : row + 1], alone.source)
        assert torch.equal(together.target[row : row + 1], alone.target)


def test_padding_changes_nothing():
    x, s = torch.randn(1, 24, 16), torch.rand(1, 24)
    for partition in ("index", "mergeable"):
        alone = ops.match(x, s, 6, partition=partition)
        absent = torch.zeros(1, 40, dtype=torch.bool)
        absent[0, torch.randperm(40)[:16]] = True
        places = (~absent[0]).nonzero()[:, 0]
        wide, important = torch.full((1, 40, 16), 100.0), torch.full((1, 40), 9.0)
        wide[0, places], important[0, places] = x[0], s[0]
        found = ops.match(wide, important, 6, partition=partition, protected=absent)
        assert torch.equal(found.source[0], places[alone.source[0]])
        assert torch.equal(found.target[0], places[alone.target[0]])
        assert set(absent[0].nonzero()[:, 0].tolist()) <= set(found.kept[0].tolist())


def test_second_names_group_b():
    x, s = torch.randn(1, 12, 4), torch.arange(12.0)[None]
    assert ops.match(x, s, 2, partition="index").second.tolist() == [[False, True] * 6]
    free = ops.match(x, s, 2, critical_ratio=0.25, partition="mergeable").second  # S = 9, 10, 11 counts as a
    assert free.tolist() == [[False, True] * 4 + [False] * 4]
    absent = torch.arange(12)[None] >= 7
    assert ops.match(x, None, 2, protected=absent).second[0].tolist() == [False, True] * 3 + [False] * 6


def test_protected_share_is_exact():
    assert ops.protected_count(100, 0, 0.29) == 29
    assert ops.protected_count(576, 47, 0.25) == 144
    assert ops.protected_count(100, 45, 0.25) == 10
    assert ops.protected_count(7, 3, 1.0) == 1
    assert ops.protected_count(100, 0, float(np.float32(0.25))) == 25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merges": 6}, "merges=6 is outside 0..5"),
        ({"merges": -1}, "merges=-1"),
        ({"critical_ratio": 1.5}, "critical_ratio=1.5"),
        ({"diversity": -1.0}, "diversity=-1.0"),
        ({"diversity": float("nan")}, "diversity=nan"),
        ({"neighbors": 0}, "neighbors=0"),
        ({"bandwidth": 0.0}, "bandwidth=0.0"),
        ({"similarity": "cosin"}, "did you mean 'cosine'"),
        ({"partition": "indices"}, "did you mean 'index'"),
        ({"importance": torch.rand(2, 10)}, "importance has shape"),
        ({"protected": torch.rand(1, 9) > 2}, "protected has shape"),
        ({"tokens": torch.rand(10, 4)}, "tokens have shape"),
    ],
)
def test_refuses_what_makes_no_sense(change, words):
    arguments = {"tokens": torch.rand(1, 10, 4), "importance": torch.rand(1, 10), "merges": 2} | change
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        ops.match(**arguments)


def test_broken_input_stays_in_range():
    x = torch.randn(1, 20, 4)
    x[0, 3:9] = float("nan")
    found = ops.match(x, torch.full((1, 20), float("nan")), 5)
    assert sorted([*found.source[0].tolist(), *found.kept[0].tolist()]) == list(range(20))
    assert all(0 <= t < 20 for t in found.target[0].tolist())
