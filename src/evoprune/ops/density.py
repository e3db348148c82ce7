"""How distinct each token is from its nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from .indexing import rows

# 2 - 2 cos carries float32 rounding of a few 1e-7: below this, two vectors count as equal, so that a picture
# of duplicates has no distances at all instead of noise divided by noise.
RESOLUTION = 1e-6
_STRIPS = 448  # of fewer tokens three products take longer than the whole one


@torch.no_grad()
def unit(tokens: Tensor) -> Tensor:
    """Return the tokens (..., C) in float32 at length 1; a zero vector stays zero: cosine 0 to everything."""
    values = tokens.float()
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / torch.where(norm > 0, norm, 1.0)


@torch.no_grad()
def cosines(tokens: Tensor) -> Tensor:
    """Return the cosines (B, T, T) float32 of all pairs of tokens (B, T, C); 0 where a vector is zero."""
    # On a CPU lengths are taken out of the products: unit vectors would be a copy of all tokens, which costs a fifth.
    values = unit(tokens) if _whole(tokens) else tokens.float()
    with torch.autocast(tokens.device.type, enabled=False):
        gram = _gram(values)
    # Of unit vectors this takes out the error of their lengths, a few 1e-7: it would look like a distance between
    # duplicates.
    squares = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(squares > 0, squares, 1.0).rsqrt()
    return gram.mul_(scale.unsqueeze(-1) * scale.unsqueeze(-2))  # one factor a pair: symmetric to the last bit


@torch.no_grad()
def cosines_between(tokens: Tensor, first: Tensor | slice, second: Tensor | slice) -> Tensor:
    """Return the cosines (B, n, m) float32 of tokens (B, T, C) at `first` (B, n) with those at `second` (B, m).

    Slices are the same places in all images, which need no copy.
    """
    values = unit(tokens) if _whole(tokens) else tokens.float()
    a, b = _at(values, first), _at(values, second)
    with torch.autocast(tokens.device.type, enabled=False):
        product = torch.bmm(a, b.transpose(1, 2))
    if _whole(tokens):
        return product
    for one, dim in ((a, -1), (b, -2)):
        norm = torch.linalg.vector_norm(one, dim=-1)
        product.div_(torch.where(norm > 0, norm, 1.0).unsqueeze(dim))
    return product


def _at(values: Tensor, places: Tensor | slice) -> Tensor:
    return values[:, places] if isinstance(places, slice) else rows(values, places)


def _whole(tokens: Tensor) -> bool:
    """Return whether products are taken of unit vectors, as one operation: not on a CPU."""
    return tokens.device.type != "cpu" or torch.compiler.is_compiling()


def _gram(values: Tensor) -> Tensor:
    batch, length, _ = values.shape
    if _whole(values) or length < _STRIPS:
        return torch.bmm(values, values.transpose(1, 2))
    # Half of a Gram matrix is the mirror of the other: on a CPU, in three strips, a third of the product is
    # saved.
    gram = values.new_empty((batch, length, length))
    step = -(-length // 3)
    for start in range(0, length, step):
        stop = min(length, start + step)
        torch.bmm(values[:, start:stop], values[:, :stop].transpose(1, 2), out=gram[:, start:stop, :stop])
        gram[:, :start, start:stop] = gram[:, start:stop, :start].transpose(1, 2)
    return gram


def check_neighbors(neighbors: int, bandwidth: float | None) -> None:
    """Raise ValueError for settings of `distinctiveness` that mean nothing."""
    if neighbors < 1:
        raise ValueError(f"neighbors={neighbors} is below 1: give at least 1 nearest neighbour (5 by default)")
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth} is not above 0: give tau > 0, or None to take it from the image")


@torch.no_grad()
def distinctiveness(
    cosine: Tensor,
    *,
    neighbors: int = 5,
    bandwidth: float | None = None,
    protected: Tensor | None = None,
) -> Tensor:
    """Return d_i = 1 - mean of exp(-D_ik / tau^2) over the K nearest neighbours k, D = max(0, 2 - 2 cos).

    Parameters
    ----------
    cosine
        (B, T, T) float32 cosines of all tokens. The diagonal is overwritten with -inf.
    neighbors
        K, at least 1; where fewer tokens exist, all others are neighbours.
    bandwidth
        tau. By default tau^2 is the mean of the image's T x K nearest distances; if it is 0, every d is 0.
    protected
        (B, T) bool, True for tokens that do not exist (padding): nobody's neighbours, left out of tau; their
        own d is 0.

    Returns
    -------
    Tensor
        (B, T) float32 in [0, 1]; 0 in a crowd of equals.

    Raises
    ------
    ValueError
        `neighbors` below 1, or `bandwidth` not above 0.

    Notes
    -----
    EvoPrune (arXiv 2603.03681), section 3.3, on L2-normalised features, so that one Gram matrix serves
    similarity and density and tau does not depend on the norms of a layer. Distances below 1e-6, which
    float32 cannot tell from 0, are 0.
    """
    check_neighbors(neighbors, bandwidth)
    k = min(neighbors, cosine.shape[-1] - 1)
    if k < 1:
        return cosine.new_zeros(cosine.shape[:-1])
    cosine.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
    if protected is not None:
        cosine = cosine.masked_fill(protected.unsqueeze(-2), float("-inf"))
    nearest = cosine.topk(k, sorted=False).values
    if protected is None:
        return distinct_from(nearest, bandwidth)
    distance = _distances(nearest)
    # Rows of real tokens with fewer than K real neighbours show infinite distances there: they are no
    # neighbours.
    real = torch.isfinite(distance) & ~protected.unsqueeze(-1)
    counted = real.sum(-1).clamp(min=1)
    scale = torch.where(real, distance, 0.0).sum((-2, -1), keepdim=True) / real.sum((-2, -1), keepdim=True).clamp(min=1)
    close = torch.where(real, _closeness(distance, scale, bandwidth), 0.0).sum(-1) / counted
    return torch.where(real.any(-1), 1.0 - close, 0.0)


def distinct_from(nearest: Tensor, bandwidth: float | None = None) -> Tensor:
    """Return d (B, T) float32 from the cosines (B, T, K) float32 of each token to its nearest neighbours."""
    distance = _distances(nearest)
    scale = distance.mean((-2, -1), keepdim=True)
    return 1.0 - _closeness(distance, scale, bandwidth).mean(-1)


def _distances(cosine: Tensor) -> Tensor:
    distance = 2.0 - 2.0 * cosine
    return torch.where(distance < RESOLUTION, 0.0, distance)


def _closeness(distance: Tensor, scale: Tensor, bandwidth: float | None) -> Tensor:
    if bandwidth is not None:
        return torch.exp(distance * -(float(bandwidth) ** -2))
    return torch.where(scale > 0, torch.exp(-distance / torch.where(scale > 0, scale, 1.0)), 1.0)
