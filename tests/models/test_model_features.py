"""The feature stage where the tower runs in chunks: each part is picked from with its own scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune import EvoPrune, Random, apply
from tests import builders


@pytest.mark.parametrize("before", [[], [EvoPrune(32)]], ids=["alone", "after merging"])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_chunks_are_picked_from_one_by_one(llava: Any, before: list[Any], batch: int) -> None:
    x = builders.inputs(["<image> a <image> <image> b"], [1, 2, 3])
    with apply(llava, [*before, Random(8)]) as handle:
        whole, places, sources = llava(**x).logits, handle.stats.positions, handle.stats.sources
    with apply(llava, [*before, Random(8)], encoder_batch=batch) as handle:
        torch.testing.assert_close(llava(**x).logits, whole, atol=1e-5, rtol=1e-4)
        assert torch.equal(handle.stats.positions, places)
        assert torch.equal(handle.stats.sources, sources)
