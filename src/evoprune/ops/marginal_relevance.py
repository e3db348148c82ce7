"""Maximal marginal relevance: tokens that matter and are not like those picked before, batched over images."""

from __future__ import annotations

import torch
from torch import Tensor

from .density import cosines
from .selection import check_picks, top

_LEAST = -1e30  # finite: tokens of no importance stay above padding (twice that), and padding above what is picked


@torch.no_grad()
def maximal_marginal_relevance(
    features: Tensor,
    importance: Tensor,
    keep: int,
    *,
    balance: float = 0.5,
    parallel: int = 1,
    protected: Tensor | None = None,
) -> Tensor:
    """Pick the most important tokens, then those of largest ``balance * importance - (1 - balance) * similarity``.

    The similarity is the largest cosine with a token picked before.

    Parameters
    ----------
    features
        (B, N, C), any floating dtype; cosines are float32.
    importance
        (B, N), of a scale that compares with cosines, such as 0 to 1.
    keep
        Tokens to pick of each image, 1 to N.
    balance
        Weight of importance against novelty, 0 to 1.
    parallel
        Tokens picked at a time, without regard to each other.
    protected
        (B, N) bool, True for tokens that do not exist (padding): picked only where an image has fewer than `keep`
        others (the caller's contract).

    Returns
    -------
    Tensor
        (B, keep) int64, distinct, in the order of the picks. Equal values go to the lower index. A zero vector, or one
        that is not finite, has cosine 0 with every other; importance that is no number counts as less than any.

    Raises
    ------
    ValueError
        Shapes that do not fit, `keep` outside 1..N, or `parallel` below 1.

    Notes
    -----
    Carbonell and Goldstein 1998, the selection of IDPruner. The cosines of all pairs are computed once.
    """
    check_picks("features have", features, "(B, N, C)", keep, importance=importance, protected=protected)
    if parallel < 1:
        raise ValueError(f"parallel={parallel} is below 1: give the number of tokens picked at a time")
    batch, length, _ = features.shape
    table = cosines(features).nan_to_num_(nan=0.0).view(-1, length)
    score = importance.float().nan_to_num(nan=_LEAST).clamp(min=_LEAST, max=-_LEAST)
    offset = torch.arange(0, batch * length, length, device=features.device)[:, None]
    closest, picked = table.new_zeros((batch, length)), torch.zeros_like(score, dtype=torch.bool)
    value, picks, left = score, [], keep
    while left:
        if protected is not None:
            value = value.masked_fill(protected, 2 * _LEAST)
        number = min(parallel, left)
        left -= number
        picks.append(top(value.masked_fill(picked, float("-inf")), number))
        near = table.index_select(0, (picks[-1] + offset).flatten()).view(batch, number, length).amax(1)
        closest = near if len(picks) == 1 else torch.maximum(closest, near)
        picked = picked.scatter(1, picks[-1], True)
        value = balance * score - (1.0 - balance) * closest
    return torch.cat(picks, dim=1)
