"""The runners of the video benchmark, on a tiny random model."""

import pytest
import torch

from evoprune.tiny import build as image_build
from evoprune.tiny.video import benchmark, build, packed
from evoprune.tiny.video.prompts import corpus


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    words = image_build.tokenizer(corpus(), ("image", "video"))
    return build.model(words, depth=2, blocks=3).eval(), build.processor(words)


@pytest.mark.parametrize("frames", [None, [4], [2, 2, 5]])
def test_packed_answers_begin_the_generated_ones(untrained, frames):
    model, processor = untrained
    asked = benchmark.examples("dev", 4)
    projected = packed.read(model, processor, "dev", 4, batch=3)
    fast = packed.run(model, processor, asked, projected, frames=frames, batch=3)
    slow = list(benchmark.answers(model, processor, "dev", asked, frames=frames, batch=7))
    assert len(set(fast.answers)) > 1
    assert all(long.startswith(short) for short, long in zip(fast.answers, slow, strict=True))


def test_dropping_all_but_all_changes_nothing_and_half_is_random(untrained):
    model, processor = untrained
    asked = benchmark.examples("dev", 3)
    projected = packed.read(model, processor, "dev", 3)
    for pooled, whole in ((True, 25), (False, 100)):
        full = packed.run(model, processor, asked, projected, pooled=pooled)
        for original in (False, True):
            settings = {"pooled": pooled, "keep": whole, "original": original}
            assert packed.run(model, processor, asked, projected, **settings) == full
    tokens = torch.arange(2 * 3 * 25.0).view(2, 3, 25, 1)
    few, other = (packed.thinned(tokens, 12, torch.Generator().manual_seed(seed))[0] for seed in (0, 1))
    assert few.shape == (2, 3, 12, 1)
    assert (few.diff(dim=2) > 0).all(), "in order, none twice"
    assert torch.equal(few.floor_divide(25).long()[:, :, 0, 0], torch.arange(6).view(2, 3)), "of its own frame"
    assert not torch.equal(few, other)


def test_blind_run_needs_no_clip(untrained):
    model, processor = untrained
    told = []
    result = benchmark.run(model, processor, "dev", clips=2, frames=[], advance=told.append)
    assert len(result.answers) == len(benchmark.examples("dev", 2)) == told[-1]
    assert list(result.by_kind()) == [k for k in benchmark.questions.KINDS if k in result.by_kind()]
