"""Ranks: sets that shrink to one number only where the questions tell the arms apart."""

from __future__ import annotations

import numpy as np
import pytest

from evoprune.evaluate.statistics import Pooled
from evoprune.evaluate.statistics.ranks import ranks, shown

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")


def of(scores, groups=None):
    """Ranks of the arms with these scores (arms, n)."""
    scores = np.asarray(scores, dtype=float)
    groups = np.arange(scores.shape[1]) if groups is None else groups
    return ranks(Pooled(dict(enumerate(scores)), groups), range(len(scores)))


def right(shares, questions=600, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([(rng.random(questions) < share).astype(float) for share in shares])


def test_arms_far_apart_have_one_rank_each_in_any_order():
    scores = right([0.1, 0.9, 0.5])
    assert of(scores) == [(3, 3), (1, 1), (2, 2)]
    assert of(scores[[1, 2, 0]]) == [(1, 1), (2, 2), (3, 3)]


def test_arms_close_together_share_their_ranks():
    assert of(right([0.9, 0.5, 0.51, 0.1])) == [(1, 1), (2, 3), (2, 3), (4, 4)]


def test_identical_arms_are_never_told_apart():
    one = right([0.5])[0]
    assert of([one, one, one]) == [(1, 3)] * 3
    assert of([np.ones(50), np.ones(50)]) == [(1, 2)] * 2


def test_paired_draws_find_what_independent_intervals_would_hide():
    # The second loses 40 of 600 questions that the first has, and wins none: its interval overlaps the first's.
    one = right([0.6])[0]
    other = one.copy()
    other[np.flatnonzero(one)[:40]] = 0
    pooled = Pooled({0: one, 1: other}, np.arange(600))
    assert pooled.share(1).high > pooled.share(0).low
    assert ranks(pooled, [0, 1]) == [(1, 1), (2, 2)]


def test_few_groups_tell_nothing_apart():
    assert of([[1] * 4, [0] * 4]) == [(1, 2), (1, 2)]
    assert of([[1] * 40, [0] * 40], groups=["one"] * 40) == [(1, 2), (1, 2)]
    assert of([[1] * 40, [0] * 40], groups=np.arange(40)) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("number", [0, 1])
def test_nobody_to_be_compared_with(number):
    assert of(np.ones((number, 5)) if number else np.ones((0, 5))) == [(1, 1)] * number


def test_no_questions():
    assert of(np.ones((2, 0))) == [(1, 2), (1, 2)]


def literal(scores, groups, resamples=4000):
    """Simultaneous intervals in loops: the largest standardised error of any pair bounds all of them."""
    labels = sorted(set(groups))
    draws = np.random.default_rng(0).integers(0, len(labels), (resamples, len(labels)))
    rows = {label: np.flatnonzero(groups == label) for label in labels}
    pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores)) if i < j]
    gap = {(i, j): scores[i].mean() - scores[j].mean() for i, j in pairs}
    found = {pair: [] for pair in pairs}
    for drawn in draws:
        chosen = np.concatenate([rows[labels[k]] for k in drawn])
        means = scores[:, chosen].mean(1)
        for i, j in pairs:
            found[i, j].append(means[i] - means[j])
    error = {pair: np.std(values, ddof=1) for pair, values in found.items()}
    worst = [max(abs(found[p][k] - gap[p]) / error[p] for p in pairs) for k in range(resamples)]
    limit = np.quantile(worst, 0.95)
    better = {(i, j) for i, j in pairs if gap[i, j] > limit * error[i, j]}
    better |= {(j, i) for i, j in pairs if -gap[i, j] > limit * error[i, j]}
    arms = range(len(scores))
    return [(1 + sum((j, i) in better for j in arms), len(scores) - sum((i, j) in better for j in arms)) for i in arms]


def test_ranks_equal_the_literal_ones():
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(60), 3)
    hard = np.repeat(rng.random(60), 3)
    scores = np.array(
        [(rng.random(180) < np.clip(hard + lift, 0, 1)) for lift in (0.0, 0.1, 0.25, 0.3, -0.2)], dtype=float
    )
    assert of(scores, groups) == literal(scores, groups)


def test_ranks_are_right_nearly_always():
    """Of 100 samples in which five arms are equal, hardly any ranks one before another: 5 % for all pairs at once."""
    wrong = sum(of(right([0.5] * 5, questions=80, seed=seed)) != [(1, 5)] * 5 for seed in range(100))
    assert wrong <= 10


def test_a_rank_is_printed_alone_only_where_it_is_alone():
    assert [shown(rank) for rank in ((2, 2), [1, 4], None)] == ["2", "1-4", "–"]
