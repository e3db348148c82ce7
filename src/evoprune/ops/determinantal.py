"""The most probable set of a determinantal point process, greedily: one step a pick, batched over images."""

from __future__ import annotations

import torch
from torch import Tensor

from .selection import check_picks, first_true

# Of a token that earlier picks explain wholly float32 leaves up to this share of its variance, as noise.
EXHAUSTED = 1e-5


@torch.no_grad()
def greedy_map(
    kernel: Tensor,
    keep: int,
    *,
    weights: Tensor | None = None,
    fill: Tensor | None = None,
    protected: Tensor | None = None,
) -> Tensor:
    """Pick tokens one by one, each the one that makes the determinant of the kernel on all picks largest.

    Parameters
    ----------
    kernel
        (B, N, N), symmetric and positive semidefinite, such as the cosines of all pairs; taken as float32.
    keep
        Tokens to pick of each image, 1 to N.
    weights
        (B, N) or None: the kernel of the process is then ``w_i * kernel_ij * w_j``. It is not built: the weights of
        the picks multiply all candidates alike, so a step weighs only what is left of each token by ``w_i ** 2``.
    fill
        (B, N) scores or None: where the picks explain every token that is left (the kernel's rank is used up), the
        rest is picked by falling score, or without scores by rising index.
    protected
        (B, N) bool, True for tokens that do not exist (padding): picked only where an image has fewer than `keep`
        others (the caller's contract).

    Returns
    -------
    Tensor
        (B, keep) int64, distinct, in the order of the picks. Equal gains go to the lower index. A token of which less
        than 1e-5 of its own variance is left, or whose kernel or weight is zero or not finite, comes from `fill` alone.

    Raises
    ------
    ValueError
        Shapes that do not fit, or `keep` outside 1..N.

    Notes
    -----
    Incremental Cholesky factorisation (Chen et al., arXiv 1709.05135, algorithm 1), as CDPruner (arXiv 2506.10967) has
    it: with d what is left of each token and c its factors, the pick j of largest d gives
    ``e = (kernel_j - sum_u c_u[j] c_u) / sqrt(d_j)`` and ``d - e * e``. Of B images that costs B * keep^2 * N.
    """
    if kernel.dim() != 3 or kernel.shape[1] != kernel.shape[2]:
        raise ValueError(f"the kernel has shape {tuple(kernel.shape)}: give (B, N, N)")
    check_picks("the kernel has", kernel, "(B, N, N)", keep, weights=weights, fill=fill, protected=protected)
    kernel = kernel.float()
    batch, length, _ = kernel.shape
    left = kernel.diagonal(dim1=1, dim2=2).clone()
    least = EXHAUSTED * left
    value = torch.ones_like(left) if weights is None else weights.float().square()
    able = value > 0 if protected is None else (value > 0) & ~protected
    free, reserve = torch.ones_like(able), _reserve(left, fill, protected)
    table, places = kernel.reshape(-1, length), torch.arange(length, device=kernel.device)
    offset = torch.arange(0, batch * length, length, device=kernel.device)
    factors, picks = kernel.new_zeros((batch, keep, length)), []
    for step in range(keep):
        gain = torch.where(free & able & (left > least), left * value, float("-inf"))
        spent = gain.amax(-1, keepdim=True) == float("-inf")
        value_of = torch.where(spent, torch.where(free, reserve, float("-inf")), gain)
        pick = first_true(value_of == value_of.amax(-1, keepdim=True), places)
        picks.append(pick)
        free = free & (places != pick[:, None])
        if step < keep - 1:
            row = _unexplained(table.index_select(0, pick + offset), factors[:, :step], pick)
            pivot = torch.where(spent, 1.0, left.gather(1, pick[:, None]))
            factors[:, step] = torch.where(spent, 0.0, row * pivot.rsqrt())
            left = left - factors[:, step].square()
    return torch.stack(picks, dim=1)


def _unexplained(row: Tensor, factors: Tensor, pick: Tensor) -> Tensor:
    """Return a row (B, N) of the kernel without what earlier picks, by their factors (B, t, N), explain of it."""
    at = factors.gather(2, pick[:, None, None].expand(-1, factors.shape[1], 1))
    with torch.autocast(row.device.type, enabled=False):
        return torch.baddbmm(row[:, None], at.transpose(1, 2), factors, alpha=-1).squeeze(1)


def _reserve(like: Tensor, fill: Tensor | None, protected: Tensor | None) -> Tensor:
    """Return finite scores (B, N) by whose falling order tokens without a gain are picked, padding last."""
    rank = torch.arange(like.shape[1], device=like.device).expand(like.shape)
    if fill is not None:
        scores = fill.float().nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices
        rank = torch.zeros_like(order).scatter(1, order, rank)
    if protected is not None:
        rank = rank + protected * like.shape[1]
    return -rank.float()
