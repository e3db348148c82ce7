"""Are two matchings the same but for ties? Greedy choices jump where scores are closer than a dtype's rounding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evoprune.ops import Matching


class Differences(NamedTuple):
    """Pairs that differ between two matchings: `ties` in the order of equals, `wrong` in more than rounding.

    Attributes
    ----------
    pairs
        All pairs compared.
    ties
        Ranks at which another pair stands whose float64 score is within the tolerance of the expected one.
    wrong
        Ranks at which it is not, and pairs that break the rules of a matching.
    """

    pairs: int
    ties: int
    wrong: int


def pair_scores(
    tokens: Tensor, *, neighbors: int = 5, bandwidth: float | None = None, diversity: float = 1.0, sigmoid: bool = False
) -> Tensor:
    """Return the scores (B, T, T) of all pairs in float64, straight from the formulas of `evoprune.ops.match`."""
    values = tokens.double()
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    values = values / torch.where(norm > 0, norm, 1.0)
    cosine = values @ values.transpose(1, 2)
    score = cosine.sigmoid() if sigmoid else cosine.clone()
    if diversity == 0:
        return score
    cosine.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    distance = 2.0 - 2.0 * cosine.topk(min(neighbors, tokens.shape[1] - 1), dim=-1).values
    distance = torch.where(distance < 1e-6, 0.0, distance)
    scale = distance.mean((1, 2), keepdim=True) if bandwidth is None else torch.full_like(distance, bandwidth**2)
    distinct = 1.0 - torch.where(scale > 0, torch.exp(-distance / torch.where(scale > 0, scale, 1.0)), 1.0).mean(-1)
    weight = torch.exp(-diversity * distinct)
    return score * weight.unsqueeze(2) * weight.unsqueeze(1)


def differences(found: Matching, wanted: Matching, scores: Tensor, tolerance: float = 1e-5) -> Differences:
    """Compare two matchings of the same tokens, importance and settings, rank by rank.

    Parameters
    ----------
    found, wanted
        Pairs by descending score, as `evoprune.ops.match` returns them.
    scores
        (B, T, T) float64, from `pair_scores`.
    tolerance
        Scores that differ by less are equal: 1e-5 is what float32 cosines of real widths resolve.
    """
    image = torch.arange(scores.shape[0], device=scores.device).unsqueeze(1)
    gap = (scores[image, found.source, found.target] - scores[image, wanted.source, wanted.target]).abs()
    other = (found.source != wanted.source) | (found.target != wanted.target)
    wrong = (other & ~(gap < tolerance)).sum()
    # A source twice, or one that is a target or is kept, is no matter of rounding.
    used = torch.cat((found.source, found.kept), dim=1).sort(dim=1).values
    wrong += (used != torch.arange(used.shape[1], device=used.device)).any(1).sum()
    wrong += (found.source.unsqueeze(2) == found.target.unsqueeze(1)).any((1, 2)).sum()
    ties = int((other & (gap < tolerance)).sum())
    return Differences(other.numel(), ties, int(wrong))
