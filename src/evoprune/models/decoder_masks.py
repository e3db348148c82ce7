"""Attention masks of layers that have lost tokens, in the form that each attention backend takes."""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = "flex", "paged"  # backends whose masks are no tensors, or that keep no cache of their own


def shortened(mask: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Return rows and columns of a mask (B or 1, heads, Q, K) by int64 (B, Q') and (B, K').

    Padding among the queries (-1) may look everywhere, so that no row of a softmax is empty; padding among the keys is
    looked at by nobody else.
    """
    batch, heads = queries.shape[0], mask.shape[1]
    rows = queries.clamp(min=0)[:, None, :, None].expand(-1, heads, -1, mask.shape[3])
    picked = mask.expand(batch, -1, -1, -1).gather(2, rows)
    columns = keys.clamp(min=0)[:, None, None, :].expand(-1, heads, queries.shape[1], -1)
    picked = picked.gather(3, columns)
    return _padded(picked, queries, keys)


def causal(queries: Tensor, keys: Tensor, real: Tensor, window: int | None) -> Tensor:
    """Return bool (B, 1, Q, K) from the prompt's columns of queries (B, Q) and keys (B, K), -1 for padding.

    `real` is bool (B, columns); with a `window` keys that are so far back or farther are out of sight.
    """
    near = keys[:, None] <= queries[:, :, None]
    if window is not None:
        near &= queries[:, :, None] - keys[:, None] < window
    seen = real.gather(1, keys.clamp(min=0))
    asking = torch.where(real.gather(1, queries.clamp(min=0)), queries, -1)  # the caller's padding too
    return _padded((near & seen[:, None])[:, None], asking, keys)


def _padded(mask: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    unseen, asking_nothing = (keys < 0)[:, None, None], (queries < 0)[:, None, :, None]
    if mask.dtype == torch.bool:
        return (mask & ~unseen) | asking_nothing
    return mask.masked_fill(unseen, torch.finfo(mask.dtype).min).masked_fill(asking_nothing, 0.0)


def for_backend(mask: Tensor, backend: str, dtype: torch.dtype, keys_seen: Tensor) -> Tensor:
    """Return a bool mask (B, 1, Q, K) as `backend` takes it; flash attention gets which keys are there, bool (B, K)."""
    if "flash" in backend:
        return keys_seen
    if backend == "eager":
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    return mask
