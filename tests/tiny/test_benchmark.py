"""The benchmark's questions and its two runners."""

import pytest
import torch

from evoprune.tiny import batches, benchmark, build, packed


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
