"""Intervals and tests on data whose answers are known, by hand or by slow loops."""

from __future__ import annotations

import sys
import warnings
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.evaluate.statistics import Interval, Pooled, paired
from evoprune.evaluate.statistics.paired_tests import corrected, mcnemar, sign_flip
from evoprune.evaluate.statistics.resampling import checked, grouped

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def bounds(found: Interval | None) -> tuple[float, float, float]:
    assert found is not None
    return found.value, found.low, found.high


# Scores and groups


def test_scores_are_numbers_from_0_to_1():
    assert checked([0, 1, True, 0.3]).tolist() == [0.0, 1.0, 1.0, 0.3]
    for bad in (float("nan"), -0.1, 1.2, float("inf")):
        with pytest.raises(ValueError, match="numbers from 0 to 1"):
            Pooled({"a": [0.5, bad]}, ["x", "y"])


def test_groups_are_numbered_by_label_whatever_the_order():
    where, count = grouped(["10", "2", "10", "b"])
    assert where.tolist() == [2, 0, 2, 1] and count == 3
    assert grouped(np.array([10, 2, 10]))[0].tolist() == [1, 0, 1]


# Intervals


def literal(a, b, groups, relative, resamples, seed):
    """The bootstrap in loops, with the draws of numpy's generator: whole groups, their questions pooled."""
    labels = sorted(set(groups))
    values = []
    for drawn in np.random.default_rng(seed).integers(0, len(labels), (resamples, len(labels))):
        mine, theirs = [], []
        for number in drawn:
            for i, label in enumerate(groups):
                if label == labels[number]:
                    mine.append(a[i])
                    theirs.append(b[i])
        one, other = sum(mine) / len(mine), sum(theirs) / len(theirs)
        values.append(one / other if relative else one - other)
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_interval_equals_the_literal_bootstrap_with_the_same_draws(relative, soft):
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    a, b = rng.random((2, len(groups)))
    if not soft:
        a, b = (a < 0.5).astype(float), (b < 0.8).astype(float)
    found = paired(a, b, groups, relative=relative, resamples=150, seed=5)
    low, high = literal(a, b, groups, relative, 150, 5)
    assert found.value == pytest.approx(a.mean() / b.mean() if relative else a.mean() - b.mean())
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_two_groups_have_the_spread_of_four_draws():
    # Groups {1, 1} and {0, 0}: the resamples are 0, 1/2 twice, 1, each with a quarter.
    pooled = Pooled({"a": [1, 1, 0, 0]}, [0, 0, 1, 1])
    assert bounds(pooled.share("a")) == (0.5, 0.0, 1.0)
    assert abs((pooled.drawn("a") == 2).mean() - 0.5) < 0.03


def test_groups_are_resampled_not_questions():
    groups = np.repeat(np.arange(20), 50)
    facts = (groups % 2).astype(float)  # whole groups are right or wrong: twenty facts, not a thousand
    found = Pooled({"a": facts}, groups).share("a")
    alone = Pooled({"a": facts}, np.arange(1000)).share("a")
    assert found.high - found.low > 0.3 > 0.1 > alone.high - alone.low


def test_all_right_and_all_wrong_have_the_exact_bound_over_groups():
    for groups in (1, 2, 30):
        labels = np.repeat(np.arange(groups), 2)
        pooled = Pooled({"right": np.ones(2 * groups), "wrong": np.zeros(2 * groups)}, labels)
        bound = 0.025 ** (1 / groups)
        assert bounds(pooled.share("right")) == (1.0, pytest.approx(bound), 1.0)
        assert bounds(pooled.share("wrong")) == (0.0, 0.0, pytest.approx(1 - bound))
        assert bounds(pooled.difference("right", "wrong")) == (1.0, pytest.approx(2 * bound - 1), 1.0)
        assert bounds(pooled.difference("wrong", "right")) == (-1.0, -1.0, pytest.approx(1 - 2 * bound))
        assert pooled.ratio("right", "wrong") is None


def test_groups_that_are_all_alike_admit_others():
    """One group says what the others have to be like, and the rest confirm it: k - 1 successes of k - 1."""
    for groups in (2, 9, 300):
        labels = np.repeat(np.arange(groups), 2)
        pooled = Pooled({"half": [1, 0] * groups, "right": np.ones(2 * groups)}, labels)
        sure = 0.025 ** (1 / (groups - 1))
        assert bounds(pooled.share("half")) == (0.5, pytest.approx(sure / 2), pytest.approx(1 - sure / 2))
        wanted = -0.5, pytest.approx(-0.5 * sure - (1 - sure)), pytest.approx(-0.5 * sure + (1 - sure))
        assert bounds(pooled.difference("half", "right")) == wanted
        wanted = 0.5, pytest.approx(sure / 2), pytest.approx(0.5 + (1 - sure) / sure)
        assert bounds(pooled.ratio("half", "right")) == wanted
    assert bounds(Pooled({"soft": [0.5, 0.5]}, [0, 1]).share("soft"))[1:] == pytest.approx((0.0125, 0.9875))


@pytest.mark.parametrize("groups", [2, 3, 40, 320])
def test_two_runs_with_equal_scores_may_differ_on_what_was_not_asked(groups):
    rest = 1 - 0.025 ** (1 / groups)
    scores = np.arange(groups) % 2 + 0.0
    pooled = Pooled({"a": scores, "b": scores, "agree": np.ones(groups), "not all": scores}, np.arange(groups))
    for agree in (None, "not all"):
        found = bounds(pooled.difference("a", "b", agree=agree))
        assert found == (0.0, pytest.approx(-rest), pytest.approx(rest))
        low, high = bounds(pooled.ratio("a", "b", agree=agree))[1:]
        assert low == pytest.approx(1 / high) and 0 < low < 1 - rest
    # The same answers with the same scores are the same run, and so is the same column.
    assert bounds(pooled.difference("a", "b", agree="agree")) == bounds(pooled.difference("a", "a")) == (0, 0, 0)
    assert bounds(pooled.ratio("a", "b", agree="agree")) == bounds(pooled.ratio("a", "a")) == (1, 1, 1)


def test_equal_answers_with_other_scores_are_not_the_same_run():
    pooled = Pooled({"a": [1, 1, 1], "b": [1, 1, 0], "agree": [1, 1, 1]}, range(3))
    found = pooled.difference("a", "b", agree="agree")
    assert found.low < found.high


def test_one_question_that_both_have_right_says_nothing_about_them():
    pooled = Pooled({"a": [1], "b": [1]}, ["x"])
    assert bounds(pooled.difference("a", "b")) == (0.0, pytest.approx(-0.975), pytest.approx(0.975))
    assert pooled.ratio("a", "b") is None


def test_intervals_hardly_depend_on_the_seed():
    rng = np.random.default_rng(8)
    a, b = (rng.random((2, 320)) < [[0.7], [0.5]]).astype(float)
    lows = [paired(a, b, np.arange(320), relative=False, seed=seed).low for seed in range(8)]
    assert max(lows) - min(lows) < 0.004


def test_one_group_says_nothing_and_no_question_has_no_value():
    one = Pooled({"a": [1, 0, 1], "b": [1, 1, 1]}, ["x"] * 3)
    assert bounds(one.share("a")) == (pytest.approx(2 / 3), 0.0, 1.0)
    assert bounds(one.difference("a", "b")) == (pytest.approx(-1 / 3), -1.0, 1.0)
    assert one.ratio("a", "b") is None
    none = Pooled({"a": [], "b": []}, [])
    assert none.share("a") is none.difference("a", "b") is none.ratio("a", "b") is None
    with pytest.raises(ValueError, match="0 questions in 0 groups"):
        paired([], [], [])


def test_ratio_without_an_end_is_none():
    groups = np.arange(6)
    rare = np.array([1, 0, 0, 0, 0, 0])  # a third of the resamples has none of it
    pooled = Pooled({"a": np.array([0, 1, 1, 1, 1, 1]), "rare": rare, "none": 0 * rare}, groups)
    assert pooled.ratio("a", "rare") is None
    assert pooled.ratio("a", "none") is None
    value, low, high = bounds(pooled.ratio("none", "a"))
    assert (value, low) == (0, 0) and high == pytest.approx((1 - 0.025 ** (1 / 6)) / (0.025 ** (1 / 6) * 5 / 6))
    with pytest.raises(ValueError, match="take the difference"):
        paired(np.ones(6), 0 * rare, groups)


def test_share_of_a_part_is_over_that_part():
    # Three questions count, of which two are right; resamples without any of them say nothing and are left out.
    pooled = Pooled({"right": [1, 0, 1, 0], "counts": [1, 1, 1, 0], "nothing": [0] * 4}, np.arange(4))
    value, low, high = bounds(pooled.share("right", "counts"))
    assert value == pytest.approx(2 / 3) and 0 <= low < value < high <= 1
    assert pooled.share("right", "nothing") is None


def test_intervals_cover_the_truth():
    """Of 200 samples of 40 groups from one population, about 95 % of the intervals hold the true accuracy."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    held = 0
    for _ in range(200):
        chance = np.repeat(rng.choice([0.3, 0.9], 40), 3)  # the truth is 0.6
        scores = (rng.random(120) < chance).astype(float)
        found = Pooled({"a": scores}, groups, resamples=400).share("a")
        held += found.low <= 0.6 <= found.high
    assert 180 <= held <= 198


groups_and_scores = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0, 0.3, 0.6, 1]), st.sampled_from([0, 0.3, 0.6, 1])),
    min_size=1,
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(groups_and_scores, st.randoms(use_true_random=False))
def test_intervals_do_not_depend_on_the_order_of_questions(rows, random):
    shuffled = random.sample(rows, len(rows))
    found = []
    for some in (rows, shuffled):
        groups, a, b = zip(*some, strict=True)
        pooled = Pooled({"a": a, "b": b}, groups, resamples=80)
        found.append((pooled.share("a"), pooled.difference("a", "b"), pooled.ratio("a", "b")))
        assert sign_flip([a], b, groups, flips=200)[0] == sign_flip([b], a, groups, flips=200)[0]
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert bounds(one) == pytest.approx(bounds(other))


@settings(max_examples=60, deadline=None)
@given(groups_and_scores)
def test_swapped_arms_negate_and_invert(rows):
    groups, a, b = zip(*rows, strict=True)
    pooled = Pooled({"a": a, "b": b, "low": np.array(a) / 2, "lifted": np.array(a) / 2 + 0.25}, groups, resamples=80)
    value, low, high = bounds(pooled.difference("a", "b"))
    assert bounds(pooled.difference("b", "a")) == pytest.approx((-value, -high, -low))
    one, other = pooled.ratio("a", "b"), pooled.ratio("b", "a")
    if one is not None and other is not None and min(one.value, other.value, one.low, other.low) > 0:
        # Between two draws the percentile of a ratio is not quite the inverse of the other's.
        assert one.value == pytest.approx(1 / other.value)
        assert one.low <= 1 / other.low + 1e-9 and one.high >= 1 / other.high - 1e-9
    if (
        np.ptp(pooled.drawn("low") / pooled.drawn(None)) > 1e-9
    ):  # what is added to every answer shifts the interval by it
        before, after = bounds(pooled.share("low")), bounds(pooled.share("lifted"))
        if before[0] > 0:
            assert after == pytest.approx([bound + 0.25 for bound in before])


# Tests


def literal_mcnemar(b, c):
    """Twice the smaller binomial tail, in fractions."""
    n = b + c
    tail = sum(Fraction(comb(n, k), 2**n) for k in range(min(b, c) + 1))
    return float(min(Fraction(1), 2 * tail))


@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (6, 0, 0.03125), (0, 6, 0.03125), (9, 1, 0.021484375)]
)
def test_mcnemar_by_hand(b, c, p):
    first = np.array([1] * b + [0] * c + [1, 1, 0])
    second = np.array([0] * b + [1] * c + [1, 1, 0])
    assert mcnemar(first, second) == (b, c, pytest.approx(p))
    assert literal_mcnemar(b, c) == pytest.approx(p)


def test_mcnemar_is_for_right_and_wrong_only():
    with pytest.raises(ValueError, match="soft scores"):
        mcnemar([0.3, 1], [1, 1])


def literal_sign_flip(a, b, groups):
    """All patterns of signs, counted; the two tails of scipy: twice the smaller one."""
    gaps: dict[object, Fraction] = {}
    for x, y, label in zip(a, b, groups, strict=True):
        gaps[label] = gaps.get(label, Fraction(0)) + Fraction(str(x)) - Fraction(str(y))
    seen = sum(gaps.values())
    values = [
        sum(s * g for s, g in zip(signs, gaps.values(), strict=True)) for signs in product((1, -1), repeat=len(gaps))
    ]
    tail = min(sum(v <= seen for v in values), sum(v >= seen for v in values))
    return min(1.0, 2 * tail / len(values))


@pytest.mark.parametrize("seed", range(6))
def test_sign_flip_is_exact_for_few_groups(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 8, 24)
    arms, reference = rng.choice([0, 0.3, 0.6, 0.9, 1], (3, 24)), rng.choice([0, 0.3, 0.6, 1], 24)
    found = sign_flip(arms, reference, groups)
    assert found.tolist() == pytest.approx([literal_sign_flip(arm, reference, groups) for arm in arms])


def test_ties_of_soft_scores_stay_ties():
    # 0.2 + 0.1 - 0.3 is 0, but not in floating point: neither tail may lose the patterns that give 0.
    a, b = [0.3, 0.0, 0.3, 0.0, 0.6], [0.1, 0.3, 0.2, 0.3, 0.3]
    assert sign_flip([a], b, range(5))[0] == literal_sign_flip(a, b, range(5)) == 1.0


def test_sign_flip_of_many_groups_is_near_the_binomial():
    # One question a group: signs of the discordant pairs, so the test is McNemar's up to the number of draws.
    first, second = np.zeros(300), np.zeros(300)
    first[:30], second[30:45] = 1, 1
    p = sign_flip([first, second, second], second, np.arange(300))
    assert p[0] == pytest.approx(mcnemar(first, second)[2], abs=0.01)
    assert p[1] == p[2] == 1.0


def test_sign_flip_respects_clusters():
    # Ten wins of one picture are one fact; McNemar's test takes them for ten.
    a, b = np.array([1] * 10 + [0] * 10), np.zeros(20)
    groups = ["lucky"] * 10 + [str(i) for i in range(10)]
    assert mcnemar(a, b)[2] < 0.01
    assert sign_flip([a], b, groups)[0] == 1.0
    assert sign_flip(np.zeros((0, 20)), b, groups).shape == (0,)


def test_the_same_seed_gives_the_same_numbers():
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 200))
    assert paired(a, b, np.arange(200)) == paired(a, b, np.arange(200))
    assert paired(a, b, np.arange(200), seed=1) != paired(a, b, np.arange(200))
    assert sign_flip([a], b, np.arange(200)) == sign_flip([a], b, np.arange(200))


def test_an_arm_has_the_same_interval_in_any_company():
    rng = np.random.default_rng(4)
    a, b, c = rng.integers(0, 2, (3, 90))
    groups = np.arange(90) // 3
    alone, together = Pooled({"a": a, "b": b}, groups), Pooled({"c": c, "b": b, "a": a}, groups)
    assert alone.difference("a", "b") == together.difference("a", "b") == paired(a, b, groups, relative=False)


def test_correction_is_that_of_benjamini_and_hochberg():
    p = [0.01, 0.04, 0.03, 0.5]
    # Sorted: 0.01 * 4/1, 0.03 * 4/2, 0.04 * 4/3, 0.5 * 4/4; none larger than what follows it.
    assert corrected(p) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert corrected([]) == []
    assert corrected([0.2]) == pytest.approx([0.2])


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ValueError, match=r"pip install 'evoprune\[eval\]'"):
        paired([1, 0], [1, 1], [0, 1])
