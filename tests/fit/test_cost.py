"""What a fit costs, against the same sums written out, and as the docs tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evoprune.bench import presets
from evoprune.bench.build import skeleton
from evoprune.fit.cost import PASSES, estimate
from evoprune.fit.search import FINE, TOLERANCE

DOCS = Path(__file__).parents[2] / "docs" / "fitprune.md"


def test_llava_7b() -> None:
    found = estimate(skeleton(presets.get("llava-1.5-7b")), tokens=576, text=40, samples=32)
    t, d, m, layers = 616, 4096, 11008, 32
    layer = 2 * t * (4 * d * d + 3 * d * m) + 4 * t * t * d + 2 * t * t * d
    assert found.recording == 32 * layers * layer
    assert found.searching == 10 * found.recording
    patches, c, w = 577, 1024, 4096
    assert found.tower == 32 * 24 * (8 * patches * c * c + 4 * patches**2 * c + 4 * patches * c * w)
    assert found.flops == found.tower + 11 * found.recording
    assert found.weights == 2 * presets.get("llava-1.5-7b").parameters
    assert found.prompts == 32 * (616 * 4096 * 2 + 2 * 616 * 128 * 4)
    assert found.to_dict()["flops"] == found.flops


def test_grouped_heads_are_cheaper() -> None:
    found = estimate(skeleton(presets.get("llava-onevision-0.5b")), tokens=729, text=10, samples=1, official=True)
    t, d, m, keys = 739, 896, 4864, 128
    layer = 2 * t * (2 * d * d + 2 * d * keys + 3 * d * m) + 6 * t * t * d
    assert found.recording == 24 * layer and found.searching == 7 * found.recording


def test_a_tower_of_any_size_is_not_counted() -> None:
    assert estimate(skeleton(presets.get("qwen2.5-vl-3b")), tokens=576).tower is None


def test_passes_are_those_of_the_search() -> None:
    assert 2.0 ** -PASSES[False] == FINE
    assert 2.0 ** -PASSES[True] <= TOLERANCE < 2.0 ** (1 - PASSES[True])


def test_the_docs_tell_the_figures() -> None:
    found = estimate(skeleton(presets.get("llava-1.5-7b")), tokens=576, text=40, samples=32)
    text = DOCS.read_text(encoding="utf-8")
    for figure in (
        f"{found.tower / 1e12:.1f} TFLOPs", f"{found.recording / 1e12:.1f} TFLOPs", f"{found.flops / 1e12:,.1f} TFLOPs",
        f"{found.prompts / 2**30:.2f} GiB", f"{found.sums / 2**30:.2f} GiB", f"{found.weights / 2**30:.2f} GiB",
    ):  # fmt: skip
        assert figure in text, f"docs/fitprune.md does not tell {figure}: run `evoprune fit llava-1.5-7b --estimate`"


@pytest.mark.parametrize("shares", [1, 3])
def test_every_share_is_a_search_of_its_own_at_most(shares: int) -> None:
    model = skeleton(presets.get("llava-1.5-7b"))
    assert estimate(model, tokens=576, shares=shares).passes == 10 * shares
