"""IDPruner: scores scaled by image, and that it is a thin call of the operator."""

from __future__ import annotations

import pytest
import torch

from evoprune import IDPruner
from evoprune.pruners import FeatureView
from evoprune.pruners.idpruner import conformance, important_and_novel
from tests.ops.test_marginal_relevance import check


@pytest.mark.parametrize(("balance", "parallel"), [(0.5, 1), (0.8, 3), (0.0, 2)])
def test_it_keeps_what_matters_and_differs(balance: float, parallel: int) -> None:
    torch.manual_seed(0)
    features, scores = torch.randn(3, 20, 6), torch.rand(3, 20) * torch.tensor([[1e-3], [1.0], [50.0]])
    picks = important_and_novel(features, scores, 9, balance, parallel)
    for one, score, row in zip(features.double().tolist(), scores.double().tolist(), picks.tolist(), strict=True):
        low, high = min(score), max(score)
        check(one, [(v - low) / (high - low + 1e-6) for v in score], row, balance, parallel)
    kept = IDPruner(9, balance=balance, parallel=parallel).select(FeatureView(features, importance=scores), 9)
    assert torch.equal(kept, picks.sort(dim=1).values)


def test_equal_scores_leave_novelty_alone() -> None:
    features = torch.eye(4)[[0, 0, 1, 1, 2]][None]
    assert important_and_novel(features, torch.full((1, 5), 0.2), 5).tolist() == [[0, 2, 4, 1, 3]]


def test_it_asks_for_attention() -> None:
    assert IDPruner(4).needs == {"importance", "projected"}
    with pytest.raises(ValueError, match="has no importance"):
        IDPruner(4).select(FeatureView(torch.randn(1, 9, 4)), 4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"balance": 1.5}, "balance=1.5 is outside 0..1"),
        ({"balance": "a"}, "balance='a' is no number"),
        ({"parallel": 0}, "parallel=0 is outside 1"),
        ({"parallel": 1.5}, "parallel=1.5 is no whole number"),
    ],
)
def test_refuses(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        IDPruner(4, **values)
    assert words in str(raised.value)


def test_conformance_takes_any_form() -> None:
    """Counts by share alone, and sizes that the files of `tests/golden` do not have."""
    torch.manual_seed(1)
    inputs = {"features": torch.randn(33, 7), "scores": torch.randn(33)}
    for settings, keep in (
        ({"ratio_dropped": 0.5}, 16),  # half to even
        ({"ratio_dropped": 1.0}, 1),
        ({"ratio_dropped": 0.9, "keep": 5, "mmr_lambda": 0.3, "parallel_k": 4}, 5),
    ):
        found = conformance(inputs, settings)
        assert found["selected"].shape == (keep,) and found["mask"].shape == (1, 33)
        assert found["mask"][0].nonzero()[:, 0].tolist() == sorted(found["selected"].tolist())
    assert conformance(inputs, {"ratio_dropped": 0.0})["selected"].tolist() == list(range(33))
