"""Sums of attention over chosen queries, of the largest head or of the heads' mean, without the H x Tq x Tk matrix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .attention_pass import _CHUNK_CPU, _CHUNK_DEVICE

Reduce = Literal["max", "mean"]


@torch.no_grad()
def attention_sums(
    query: Tensor,
    key: Tensor,
    scaling: float,
    weights: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    reduce: Reduce = "max",
) -> Tensor:
    """Return for each group of weights the weighted sum over the queries of the attention, reduced over the heads.

    ``out[b, g, k] = sum_q weights[b, g, q] * reduce_h softmax(query key^T * scaling + mask)[b, h, q, k]``

    Parameters
    ----------
    query
        (B, H, Tq, D), any floating dtype.
    key
        (B, Hk, Tk, D), where Hk divides H (grouped-query attention).
    scaling
        Factor on the logits, usually ``D ** -0.5``.
    weights
        (B, G, Tq). A query whose weights are all 0 adds nothing, whatever it holds: it may see no key at all.
    mask
        Bool, True where a query may attend, or float, added to the logits; broadcasts to (B, 1, Tq, Tk).
    causal
        Without a mask, whether query i sees no key behind i + Tk - Tq; a mask has the last word.
    reduce
        ``"max"``, the largest of the heads, or ``"mean"``.

    Returns
    -------
    Tensor
        (B, G, Tk) float32.

    Raises
    ------
    ValueError
        Shapes that do not fit together, or another `reduce`.

    Notes
    -----
    The head-wise maximum and both sums of FitPrune (arXiv 2409.10197), section 3; with "mean" and one weight of 1, the
    rank of FastV (arXiv 2403.06764). Works through blocks of queries, so that memory does not grow with Tq x Tk.
    """
    _check(query, key, weights, mask, reduce)
    length, keys = query.shape[2], key.shape[2]
    counted, weighed = weights.float(), (weights != 0).any(1).unsqueeze(-1)
    step, total = _rows_a_block(query, keys), counted.new_zeros(weights.shape[0], weights.shape[1], keys)
    with torch.autocast(query.device.type, enabled=False):
        wide = key.float().flatten(0, 1).transpose(1, 2)
        for start in range(0, length, step):
            rows = slice(start, min(start + step, length))
            # The keys behind the last query of a block are seen by none of it.
            seen = keys if mask is not None or not causal else max(0, min(keys, rows.stop + keys - length))
            if not seen:
                continue
            logits = _logits(query[:, :, rows], wide[..., :seen], scaling)
            _mask(logits, mask, rows, causal, keys - length)
            heads = _softmax(logits)
            level = heads.amax(1) if reduce == "max" else heads.mean(1)
            level = level.where(weighed[:, rows], 0.0)  # 0 times NaN would be NaN
            total[..., :seen] += torch.bmm(counted[..., rows], level)
    return total


def _logits(query: Tensor, across: Tensor, scaling: float) -> Tensor:
    """Return (B, H, R, Tk) of queries (B, H, R, D) and transposed keys (B Hk, D, Tk)."""
    batch, heads, rows, width = query.shape
    stacked = (query.float() * scaling).reshape(across.shape[0], -1, width)
    return torch.bmm(stacked, across).view(batch, heads, rows, -1)


def _mask(logits: Tensor, mask: Tensor | None, rows: slice, causal: bool, offset: int) -> None:
    """Mask (B, H, R, Tk) in place; `offset` keys stand before the first query."""
    if mask is not None:
        part = mask[..., rows, :] if mask.dim() > 1 and mask.shape[-2] > 1 else mask
        if part.dtype == torch.bool:
            logits.masked_fill_(~part, float("-inf"))
        else:
            logits.add_(part)
    elif causal:
        places = torch.arange(logits.shape[-1], device=logits.device)
        last = torch.arange(rows.start, rows.stop, device=logits.device) + offset
        logits.masked_fill_(places > last.unsqueeze(-1), float("-inf"))


def _softmax(logits: Tensor) -> Tensor:
    """Return the softmax of the logits, in their memory; a row that sees nothing gives 0, not NaN."""
    peak = logits.amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
    logits.sub_(peak).exp_()
    return logits.div_(logits.sum(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny))


def _rows_a_block(query: Tensor, keys: int) -> int:
    batch, heads, length, _ = query.shape
    if torch.compiler.is_compiling():
        return max(1, length)  # the compiler fuses, and a long unrolled loop would slow it down
    budget = _CHUNK_CPU * torch.get_num_threads() if query.device.type == "cpu" else _CHUNK_DEVICE
    return max(1, min(length, budget // max(1, batch * heads * keys)))


def _check(query: Tensor, key: Tensor, weights: Tensor, mask: Tensor | None, reduce: str) -> None:
    if query.dim() != 4 or key.dim() != 4 or query.shape[0] != key.shape[0] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} do not fit: give (B, H, Tq, D) and (B, Hk, Tk, D)"
        )
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{key.shape[1]} key heads do not divide {query.shape[1]} query heads: give a divisor")
    if weights.dim() != 3 or weights.shape[0] != query.shape[0] or weights.shape[2] != query.shape[2]:
        raise ValueError(
            f"weights {tuple(weights.shape)} do not fit query {tuple(query.shape)}: give (B, G, Tq), one row a group"
        )
    whole = (query.shape[0], 1, query.shape[2], key.shape[2])
    sides = () if mask is None else (1,) * (4 - mask.dim()) + tuple(mask.shape)
    if mask is not None and (len(sides) != 4 or any(s not in (1, full) for s, full in zip(sides, whole, strict=True))):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit: give one that broadcasts to {whole}")
    if reduce not in ("max", "mean"):
        raise ValueError(f"reduce={reduce!r} is unknown: give 'max' or 'mean'")
