"""DivPrune: its settings, and that it is a thin call of the operator."""

from __future__ import annotations

import pytest
import torch

from evoprune import DivPrune
from evoprune.ops.selection import max_min_diversity
from evoprune.pruners import FeatureView
from evoprune.pruners.divprune import conformance


def test_it_emits_ascending_places() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 40, 8)
    kept = DivPrune(9).select(FeatureView(features), 9)
    assert torch.equal(kept, max_min_diversity(features, 9).sort(dim=1).values)
    assert kept.shape == (3, 9) and bool((kept.diff(dim=1) > 0).all())


def test_the_space_decides_what_it_asks_for() -> None:
    assert DivPrune(9).space == "projected" and DivPrune(9).needs == {"projected"}
    assert DivPrune(9, space="features").needs == frozenset()
    with pytest.raises(ValueError, match="did you mean 'projected'"):
        DivPrune(9, space="project")


def test_conformance_takes_any_form() -> None:
    """Sizes that the files of `tests/golden` do not have, and counts by share alone."""
    x = torch.randn(33, 7)
    assert len(conformance({"x": x}, {"threshold_ratio": 0.5})["kept"]) == 16  # half to even
    found = conformance({"x": x}, {"threshold_ratio": 0.1, "T": 5})
    assert found["selected"].shape == (5,) and found["distance"].shape == (33, 33)
    assert torch.equal(found["selected"].sort().values, found["kept"])
    assert conformance({"x": x[:1]}, {"T": 1})["kept"].tolist() == [0]
    with pytest.raises(ValueError, match=r"keep=0 is outside 1\.\.33"):
        conformance({"x": x}, {"threshold_ratio": 0.01})
