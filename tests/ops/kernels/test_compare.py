"""The comparison of matchings tells ties from mistakes."""

from __future__ import annotations

import torch

from evoprune import ops
from tests import reference
from tests.ops.kernels.compare import differences, pair_scores


def matching(source: list[int], target: list[int], length: int = 6) -> ops.Matching:
    kept = sorted(set(range(length)) - set(source))
    return ops.Matching(torch.tensor([source]), torch.tensor([target]), torch.tensor([kept]))


def test_scores_are_those_of_the_literal_reference() -> None:
    tokens = torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(0))
    scores, a, b = reference.pair_scores_fast(tokens[0].numpy(), None, 2)
    assert torch.allclose(pair_scores(tokens)[0][a][:, b], torch.from_numpy(scores), atol=1e-9)


def test_ties_and_mistakes() -> None:
    scores = torch.zeros(1, 6, 6, dtype=torch.float64)
    scores[0, 0, 1], scores[0, 0, 3], scores[0, 2, 1], scores[0, 2, 3] = 0.9, 0.9 - 1e-7, 0.5, 0.4
    wanted = matching([0, 2], [1, 1])
    assert differences(wanted, wanted, scores) == (2, 0, 0)
    assert differences(matching([0, 2], [3, 1]), wanted, scores) == (2, 1, 0)
    assert differences(matching([0, 2], [1, 3]), wanted, scores) == (2, 0, 1)
    assert differences(matching([2, 0], [1, 1]), wanted, scores) == (2, 0, 2)


def test_rules_of_a_matching() -> None:
    scores = torch.zeros(1, 6, 6, dtype=torch.float64)
    wanted = matching([0, 2], [1, 1])
    twice = wanted._replace(source=torch.tensor([[0, 0]]))
    assert differences(twice, wanted, scores).wrong == 1
    both = wanted._replace(target=torch.tensor([[2, 1]]))
    assert differences(both, wanted, scores).wrong == 1
