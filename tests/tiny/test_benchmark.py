"""The benchmark's statistics and its two runners."""

import numpy as np
import pytest
import torch

from evoprune.tiny import batches, benchmark, build, packed
from evoprune.tiny.benchmark import Result


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    words = build.tokenizer(batches.corpus())
    return build.model(words, depth=3).eval(), build.processor(words)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_sets_are_fixed_and_large(split):
    asked = benchmark.examples(split)
    assert len(asked) >= 2000
    assert asked[:50] == benchmark.examples(split, 20)[:50]
    assert {e.kind for e in asked} == set(benchmark.questions.KINDS)


def test_dev_and_test_differ():
    assert benchmark.examples("dev", 30) != benchmark.examples("test", 30)


def literal_intervals(mine, theirs, scenes, relative, rng, resamples=1500):
    """The percentile bootstrap in loops: draw scenes, pool their questions, take the ratio or the difference."""
    numbers = sorted(set(scenes))
    values = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(numbers), len(numbers))
        rows = np.concatenate([np.flatnonzero(scenes == numbers[i]) for i in drawn])
        a, b = mine[rows].mean(), theirs[rows].mean()
        values.append(a / b if relative else a - b)
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("relative", [True, False])
def test_interval_equals_the_literal_bootstrap(relative):
    rng = np.random.default_rng(1)
    scenes = np.repeat(np.arange(60), rng.integers(3, 9, 60))
    easy = rng.random(60)[scenes]
    theirs = (rng.random(len(scenes)) < 0.5 + 0.5 * easy).astype(float)
    mine = theirs * (rng.random(len(scenes)) < 0.9)
    found = benchmark.paired(mine, theirs, scenes, relative=relative)
    low, high = literal_intervals(mine, theirs, scenes, relative, rng)
    assert found.value == pytest.approx(mine.mean() / theirs.mean() if relative else mine.mean() - theirs.mean())
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_scenes_are_resampled_not_questions():
    scenes = np.repeat(np.arange(20), 50)
    mine = (scenes % 2).astype(float)  # whole scenes are right or wrong: twenty facts, not a thousand
    wide = benchmark.paired(mine, np.ones_like(mine), scenes)
    assert wide.high - wide.low > 0.3


def test_equal_results_have_no_spread_and_other_questions_are_refused(untrained):
    asked = benchmark.examples("dev", 2)
    one = Result(asked, tuple(e.answer for e in asked))
    assert one.accuracy == 1.0
    same = benchmark.compare(one, one)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="different questions"):
        benchmark.compare(one, Result(asked[:-1], one.answers[:-1]))


def test_packed_answers_begin_the_generated_ones(untrained):
    model, processor = untrained
    asked = benchmark.examples("dev", 6)
    fast = packed.run(model, processor, "dev", scenes=6, batch=4)
    slow = list(benchmark.answers(model, processor, "dev", asked, batch=7))
    assert len(set(fast.answers)) > 1
    assert all(long.startswith(short) for short, long in zip(fast.answers, slow, strict=True))


def test_blind_run_needs_no_picture(untrained):
    model, processor = untrained
    told = []
    result = benchmark.run(model, processor, "dev", scenes=2, blind=True, advance=told.append)
    assert len(result.answers) == len(benchmark.examples("dev", 2)) == told[-1]
