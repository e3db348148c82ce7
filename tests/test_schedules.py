"""How many tokens go at which layer."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune import schedules
from evoprune.schedules import allocate, count, smallest

NAMES = ["mean", "skip", "skip:0", "skip:1", "increasing:0", "increasing:1.0", "increasing:2", "decreasing:1",
         "decreasing:3", "increasing:0.5", "decreasing:2.75"]  # fmt: skip


def literal_weights(layers, strategy):
    name, _, text = strategy.partition(":")
    index = range(layers)
    if name in ("increasing", "decreasing"):
        base = [i + 1 if name == "increasing" else layers - i for i in index]
        return [b ** int(float(text)) if float(text).is_integer() else float(b) ** float(text) for b in base]
    rules = {
        "mean": lambda i: 1,
        "skip": lambda i: i % 2 == (0 if text == "0" else 1),
        "first": lambda i: i < int(text),
        "last": lambda i: i >= layers - int(text),
        "every": lambda i: i in range(int(text) - 1, layers, int(text)),
    }
    return [int(rules[name](i)) for i in index]


def literal(tokens, keep, layers, strategy):
    """The rule of the method in words, with fractions; None where it is impossible."""
    w = [Fraction(v) for v in literal_weights(layers, strategy)]
    r, leaving, left = [0] * layers, keep, tokens - keep
    for i in reversed(range(layers)):
        if w[i]:
            r[i] = min(math.floor(left * w[i] / sum(w[: i + 1])), leaving)
            left -= r[i]
            leaving += r[i]
    while left:
        before = left
        for i in range(layers):
            if w[i]:
                cap = keep + sum(r[i + 1 :])
                more = min(cap - r[i], left)
                r[i] += more
                left -= more
        if left == before:
            return None
    return tuple(r)


shapes = st.tuples(st.integers(1, 800), st.integers(1, 40)).flatmap(
    lambda s: st.tuples(
        st.just(s[0]),
        st.integers(1, s[0]),
        st.just(s[1]),
        st.sampled_from(
            [*NAMES, *(f"{n}:{k}" for n in ("first", "last", "every") for k in {1, (s[1] + 1) // 2, s[1]})]
        ),
    )
)


@settings(max_examples=2500, deadline=None)
@given(shapes)
def test_rule(shape):
    tokens, keep, layers, strategy = shape
    wanted = literal(*shape)
    least = smallest(tokens, layers, strategy)
    assert (wanted is None) == (keep < least)
    if wanted is None:
        with pytest.raises(ValueError, match=rf"smallest reachable keep is {least}\b"):
            allocate(*shape)
        return
    merges = allocate(*shape)
    assert merges == wanted
    assert sum(merges) == tokens - keep
    weights = literal_weights(layers, strategy)
    for r, w in zip(merges, weights, strict=True):
        assert 0 <= r <= tokens // 2
        assert w or not r
        tokens -= r
    assert all(isinstance(r, int) for r in merges)


@settings(max_examples=1000, deadline=None)
@given(shapes)
def test_its_own_counts_are_a_valid_explicit_schedule(shape):
    tokens, keep, layers, strategy = shape
    keep = max(keep, smallest(tokens, layers, strategy))
    merges = allocate(tokens, keep, layers, strategy)
    assert allocate(tokens, keep, layers, list(merges)) == merges
    assert smallest(tokens, layers, merges) == keep


def test_real_shapes():
    assert allocate(729, 64, 26) == (0, 52, 0, 52, *(0, 51) * 11)
    assert allocate(729, 16, 26)[-4:] == (0, 32, 0, 16)  # the last merges halve: 64 -> 32 -> 16
    assert sum(allocate(576, 64, 23)) == 512
    assert allocate(576, 576, 23) == (0,) * 23
    assert allocate(8, 1, 3, "mean") == (4, 2, 1)
    assert smallest(729, 26, "skip") == 1
    assert smallest(729, 5, "skip") == 183
    assert smallest(7, 1, "skip") == 7  # a single layer has no odd one


@given(st.integers(1, 800), st.integers(1, 40))
def test_every_layer_is_mean_and_every_second_is_skip(tokens, layers):
    for name, other in [("every:1", "mean"), *([("every:2", "skip")] if layers > 1 else [])]:
        least = smallest(tokens, layers, name)
        assert least == smallest(tokens, layers, other)
        for keep in {least, (least + tokens) // 2, tokens}:
            assert allocate(tokens, keep, layers, name) == allocate(tokens, keep, layers, other)


def test_every_third_layer_and_rarer_ones():
    none = (0,) * 5
    assert allocate(729, 64, 26, "every:6") == (*none, 237, *none, 236, *none, 128, *none, 64, 0, 0)
    assert allocate(729, 640, 26, "every:6") == (*none, 23, *none, 22, *none, 22, *none, 22, 0, 0)
    assert allocate(64, 16, 6, "every:3") == (0, 0, 32, 0, 0, 16)  # halved twice: the least that two layers reach
    assert smallest(729, 26, "every:6") == 46
    with pytest.raises(ValueError, match=r"keep=16 .*'every:6' over 26 layers.*smallest reachable keep is 46$"):
        allocate(729, 16, 26, "every:6")
    for strategy in ("every:6", "every:2", " Every:40 "):
        schedules.check_strategy(strategy)
        with pytest.raises(ValueError, match=r"needs layers in 1\.\.1: write '\s?every:1' or less"):
            schedules.weights(1, strategy.lower())


def test_large_and_fractional_exponents_do_not_drift():
    assert allocate(100, 50, 4, "increasing:1000") == (1, 0, 0, 49)
    assert allocate(100, 50, 4, "increasing:1e3") == allocate(100, 50, 4, "increasing:1000")
    assert allocate(100, 50, 4, "increasing:1") == (5, 10, 15, 20)
    assert allocate(100, 50, 4, "decreasing:1.0") == (20, 15, 10, 5)
    assert allocate(100, 60, 4, "increasing:999.5") == (1, 0, 0, 39)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("skp", "did you mean 'skip'"),
        ("Incresing:1", "did you mean 'increasing:A'"),
        ("zzz", "unknown schedule 'zzz'"),
        ("skip:2", "'skip:0' or 'skip:1'"),
        ("mean:1", "does not take"),
        ("first", "in 1..6"),
        ("first:0", "in 1..6"),
        ("first:7", "in 1..6"),
        ("last:-1", "in 1..6"),
        ("last:1.5", "in 1..6"),
        ("every", "in 1..6"),
        ("every:0", "in 1..6"),
        ("every:7", "in 1..6: write 'every:6' or less"),
        ("every:2.0", "in 1..6"),
        ("evry:3", "did you mean 'every:N'"),
        ("increasing", "in 0..1000"),
        ("increasing:-1", "in 0..1000"),
        ("decreasing:nan", "in 0..1000"),
        ("decreasing:inf", "in 0..1000"),
        ("decreasing:1e9", "in 0..1000"),
        ("increasing:x", "in 0..1000"),
    ],
)
def test_unknown_strategies(strategy, words):
    with pytest.raises(ValueError) as raised:
        allocate(64, 32, 6, strategy)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("counts", "error", "words"),
    [
        ([8, 8], ValueError, "2 counts for 3 layers"),
        ([9, 0, 0], ValueError, "merges 9 of 16 tokens at layer 0: give 0..8"),
        ([4, 4, 5], ValueError, "at layer 2: give 0..4"),
        ([-1, 8, 4], ValueError, "merges -1"),
        ([4, 4, 3], ValueError, "smallest reachable keep is 5"),
        ([4.0, 4, 4], TypeError, "neither a name nor a sequence of ints"),
        (7, TypeError, "neither a name nor a sequence of ints"),
    ],
)
def test_explicit_counts_are_checked(counts, error, words):
    with pytest.raises(error) as raised:
        allocate(16, 4, 3, counts)
    assert words in str(raised.value)


@pytest.mark.parametrize(("keep", "layers"), [(0, 3), (17, 3), (-1, 3), (4, 0)])
def test_impossible_shapes(keep, layers):
    with pytest.raises(ValueError, match=r"outside 1\.\.16.*smallest reachable keep .* is 8$|at least 1 layer"):
        allocate(16, keep, layers)


def test_count():
    assert [count(k, 576) for k in (64, 1, 576, 1.0, 0.25, 0.125, 1e-9)] == [64, 1, 576, 576, 144, 72, 1]
    assert [count(0.5, n) for n in (1, 3, 5)] == [1, 2, 3]  # halves go up, unlike in round()
    for n in range(1, 300):
        for keep in (0.1, 1 / 3, 0.5, 0.777, 1.0):
            assert count(keep, n) == max(1, math.floor(keep * n + 0.5)) <= n


@pytest.mark.parametrize("keep", [0, -3, 577, True, False, 0.0, -0.1, 1.01, 1e9, math.nan, math.inf])
def test_count_refuses(keep):
    with pytest.raises(ValueError, match=r"keep="):
        count(keep, 576)
    with pytest.raises(TypeError, match="is no number"):
        schedules.check_keep("64")
