"""What one layer of the fit drops: against a loop, and where the official code has no answer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.fit.decide import decide, spared
from tests.fit import literal


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(0, 40), st.sampled_from([0.0, 0.25, 0.5, 1.0])
)
@settings(max_examples=300, deadline=None)
def test_the_longest_prefix(values: list[int], total: int, alpha: float) -> None:
    """Small whole numbers, with many ties; sums of them and halves and quarters are exact."""
    found = spared(torch.tensor(values, dtype=torch.float32), float(total), alpha)
    assert set(found.nonzero()[:, 0].tolist()) == literal.spared([float(v) for v in values], float(total), alpha)


def test_what_the_official_code_leaves_open() -> None:
    values = torch.tensor([0.3, 0.1, 0.2])
    assert spared(values, 0.6, 1.0).tolist() == [False, True, True], "no prefix is too long: one token is left"
    assert spared(values, 10.0, 0.1).tolist() == [False, False, False], "too little already: nothing is spared"
    assert spared(torch.zeros(3), 0.0, 0.0).tolist() == [True, True, False], "equal sums go by rising index"
    assert spared(torch.tensor([1.0]), 1.0, 1.0).tolist() == [False]


def test_both_sums_have_to_spare_a_token() -> None:
    cross, within = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([4.0, 1.0, 2.0, 3.0])
    assert decide(cross, within, (10.0, 10.0), 0.3).tolist() == [False, True, False, False]


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.7])
def test_more_tolerance_never_spares_less(alpha: float) -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(1))
    total = float(values.sum())
    assert bool((spared(values, total, alpha + 0.1) >= spared(values, total, alpha)).all())
