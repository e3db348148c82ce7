"""Which visual tokens one layer may drop in the fit: those that both sums of attention can spare."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def decide(cross: Tensor, within: Tensor, totals: tuple[float, float], alpha: float) -> Tensor:
    """Return bool (n,): what to delete, the intersection of what each sum spares.

    Parameters
    ----------
    cross, within
        (n,) attention that each token that is left receives from text and from visual tokens.
    totals
        Sums of both over all visual tokens in the unpruned model.
    alpha
        Share of those totals that the layer may lose.

    Notes
    -----
    Section 3.3 of arXiv 2409.10197.
    """
    return spared(cross, totals[0], alpha) & spared(within, totals[1], alpha)


@torch.no_grad()
def spared(sums: Tensor, total: float, alpha: float) -> Tensor:
    """Return bool (n,): the smallest of the sums, as many as leave at least ``total (1 - alpha)``, never all.

    Equal sums go by rising index. Where even all of them together are below that, nothing is spared; where no number
    of them is too many, the official code has no answer, and one token is left here.
    """
    order = torch.sort(sums.double(), stable=True)
    # What is left behind the k smallest, k = 0 to n, summed from the largest on: rounding never makes it rise.
    rest = torch.cat((order.values.flip(0).cumsum(0).flip(0), order.values.new_zeros(1)))
    count = int((rest >= total * (1.0 - alpha)).sum()) - 1
    gone = torch.zeros_like(sums, dtype=torch.bool)
    gone[order.indices[: max(0, min(count, len(sums) - 1))]] = True
    return gone
