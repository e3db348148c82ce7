"""Size-weighted merging, and the map from every original patch to the survivor that stands for it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import unknown
from . import kernels
from .indexing import flat
from .indexing import rows as take
from .matching import Matching

Weights = Literal["size", "equal"]
Order = Literal["raster", "tome"]
WEIGHTS = ("size", "equal")
ORDERS = ("raster", "tome")


def merge(
    tokens: Tensor,
    sizes: Tensor,
    matching: Matching,
    *,
    weights: Weights = "size",
    order: Order = "raster",
) -> tuple[Tensor, Tensor]:
    """Merge every source into its target: the mean of the target and its sources takes the target's place.

    Parameters
    ----------
    tokens
        (B, T, C), any floating dtype. Gradients flow through.
    sizes
        (B, T) float32: how many patches each token stands for.
    matching
        Pairs, from `match`.
    weights
        ``"size"``: mean weighted by `sizes`; ``"equal"``: plain mean of the tokens at hand. Sizes add up
        either way.
    order
        ``"raster"``: survivors ascending; ``"tome"``: group a's survivors, then group b, each ascending.

    Returns
    -------
    tokens, sizes
        (B, T - r, C) in the tokens' dtype, summed in float32, and (B, T - r) float32. A token that receives
        nothing is bit-identical; with r = 0 the inputs themselves are returned.

    Raises
    ------
    ValueError
        Unknown `weights` or `order`, shapes that do not fit, or ``order="tome"`` without ``matching.second``.

    Notes
    -----
    EvoPrune (arXiv 2603.03681) leaves the merged value open; the weighted mean is ToMe's (arXiv 2210.09461),
    section 3.
    """
    if weights not in WEIGHTS:
        raise ValueError(unknown("weights", weights, WEIGHTS))
    _check(tokens, sizes, matching)
    if matching.source.shape[1] == 0:
        survivors(matching, order)  # refuses an unknown order
        return tokens, sizes
    found = _by_kernel(tokens, sizes, matching, weights, order)
    return _plain(tokens, sizes.float(), matching, weights, order) if found is None else found


def _by_kernel(
    tokens: Tensor, sizes: Tensor, matching: Matching, weights: Weights, order: Order
) -> tuple[Tensor, Tensor] | None:
    if not kernels.usable(tokens):  # nor where gradients are to flow
        return None
    from .kernels.merging import merge_rows

    pairs, rows = (matching.source, matching.target), survivors(matching, order)
    return kernels.attempt("merging", merge_rows, tokens, sizes.float(), *pairs, rows, weights == "equal")


def _plain(tokens: Tensor, sizes: Tensor, matching: Matching, weights: Weights, order: Order) -> tuple[Tensor, Tensor]:
    rows, places = _places(matching, order)
    total = sizes.scatter_add(1, matching.target, sizes.gather(1, matching.source))
    if weights == "size":
        own, given, whole = sizes, sizes.gather(1, matching.source), total
    else:
        own = torch.ones_like(sizes)
        given = torch.ones_like(matching.source, dtype=torch.float32)
        whole = own.scatter_add(1, matching.target, given)
    # Exactly 1 where nothing arrives: a product with 1 leaves every bit as it was.
    share = torch.where(whole == own, 1.0, own / whole)
    with torch.autocast(tokens.device.type, enabled=False):
        merged = take(tokens, rows).float() * share.gather(1, rows).unsqueeze(-1)
        part = given / whole.gather(1, matching.target)
        added = take(tokens, matching.source).float() * part.unsqueeze(-1)
        batch, count, width = merged.shape
        at = flat(places.gather(1, matching.target), count)
        merged = merged.view(-1, width).index_add_(0, at, added.view(-1, width)).view(batch, count, width)
    return merged.to(tokens.dtype), total.gather(1, rows)


def survivors(matching: Matching, order: Order = "raster") -> Tensor:
    """Return (B, T - r) int64: the input token at whose place each output row stands, in the output's order.

    Raises
    ------
    ValueError
        Unknown `order`, or ``order="tome"`` for a matching without ``second``.
    """
    if order not in ORDERS:
        raise ValueError(unknown("order", order, ORDERS))
    if order == "raster" or matching.source.shape[1] == 0:
        return matching.kept
    if matching.second is None:
        raise ValueError("order='tome' needs to know group b: give a matching with `second`, or use order='raster'")
    length = matching.second.shape[1]
    late = matching.second.gather(1, matching.kept)
    keyed = torch.sort(torch.where(late, matching.kept + length, matching.kept), dim=-1).values
    return torch.where(keyed < length, keyed, keyed - length)


def initial_sources(batch: int, tokens: int, device: torch.device | str | None = None) -> Tensor:
    """Return (B, N0) int64: before any merge, every patch is its own survivor."""
    return torch.arange(tokens, device=device).expand(batch, tokens)


def update_sources(sources: Tensor, matching: Matching, order: Order = "raster") -> Tensor:
    """Return (B, N0) int64: for every original patch, the index of the survivor that stands for it after this
    merge.

    Parameters
    ----------
    sources
        (B, N0) int64: the same before this merge (`initial_sources` before the first).
    """
    if matching.source.shape[1] == 0:
        survivors(matching, order)
        return sources
    places = _places(matching, order)[1]
    moved = places.scatter(1, matching.source, places.gather(1, matching.target))
    return moved.gather(1, sources)


def _places(matching: Matching, order: Order) -> tuple[Tensor, Tensor]:
    """Return the survivors, and (B, T) the output row of each of them (0 for the sources)."""
    rows = survivors(matching, order)
    batch, count = rows.shape
    index = torch.arange(count, device=rows.device).expand(batch, count)
    return rows, rows.new_zeros((batch, count + matching.source.shape[1])).scatter(1, rows, index)


def _check(tokens: Tensor, sizes: Tensor, matching: Matching) -> None:
    length = matching.source.shape[1] + matching.kept.shape[1]
    if tokens.dim() != 3 or tokens.shape[1] != length or tokens.shape[0] != matching.kept.shape[0]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} do not fit a matching of {matching.kept.shape[0]} x {length}: "
            "give the tokens that were matched"
        )
    if sizes.shape != tokens.shape[:2]:
        raise ValueError(f"sizes have shape {tuple(sizes.shape)}: give {tuple(tokens.shape[:2])}, one value a token")
