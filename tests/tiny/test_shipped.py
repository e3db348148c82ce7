"""The shipped model under pruning: what the README promises, on real weights."""

import pytest
import torch

import evoprune
from evoprune import tiny
from evoprune.tiny import benchmark, packed

SCENES = 12


@pytest.fixture(scope="module")
def shipped():
    return tiny.load()


@pytest.fixture(scope="module")
def inputs(shipped):
    _, processor = shipped
    asked = benchmark.examples("test", 8)[::6][:8]
    text = [benchmark.prompt(processor, e.question) for e in asked]
    images = [[benchmark.picture("test", e.scene).image()] for e in asked]
    return [
        processor(text=t, images=i, return_tensors="pt", padding=True, add_special_tokens=False)
        for t, i in ((text, images), *(([t], [i]) for t, i in zip(text, images, strict=True)))
    ]


@torch.no_grad()
def last_logits(model, part):
    return model(**part).logits[:, -1]


def test_keep_all_and_remove_are_bit_identical(shipped, inputs):
    model, _ = shipped
    with torch.no_grad():
        before = model(**inputs[0]).logits
        with evoprune.apply(model, evoprune.EvoPrune(keep=1.0)):
            whole = model(**inputs[0]).logits
        with evoprune.apply(model, evoprune.EvoPrune(keep=0.25)) as handle:
            pruned = model(**inputs[0]).logits
        after = model(**inputs[0]).logits
    assert handle.stats.visual_tokens == (49,) * 8
    assert pruned.shape[1] == before.shape[1] - 147
    assert torch.equal(before, whole)
    assert torch.equal(before, after)


def test_batch_of_eight_equals_singles(shipped, inputs):
    model, _ = shipped
    whole, *singles = inputs
    assert len(singles) == 8
    with evoprune.apply(model, evoprune.EvoPrune(keep=0.25)) as handle:
        batched = last_logits(model, whole)
        sources = handle.stats.sources.clone()
        for row, single in enumerate(singles):
            alone = last_logits(model, single)
            assert torch.equal(handle.stats.sources[0], sources[row]), "the same patches merge"
            assert torch.allclose(alone[0], batched[row], atol=1e-5)


def test_it_answers_and_needs_the_picture(shipped):
    model, processor = shipped
    seen = packed.run(model, processor, "test", scenes=SCENES)
    blind = benchmark.run(model, processor, "test", scenes=SCENES, blind=True)
    assert seen.accuracy > blind.accuracy + 0.2


def test_packed_answers_are_generates(shipped):
    model, processor = shipped
    asked = benchmark.examples("test", 4)
    slow = list(benchmark.answers(model, processor, "test", asked))
    assert list(packed.run(model, processor, "test", asked=asked).answers) == slow


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_packed_answers_are_generates_with_pruning(shipped, positions):
    model, processor = shipped
    asked = benchmark.examples("test", 4)
    with evoprune.apply(model, evoprune.EvoPrune(keep=0.25, positions=positions)) as handle:
        fast = packed.run(model, processor, "test", asked=asked, handle=handle)
        slow = list(benchmark.answers(model, processor, "test", asked))
    assert list(fast.answers) == slow


def test_package_is_small():
    assert sum(path.stat().st_size for path in tiny.folder().iterdir()) <= 16_000_000
