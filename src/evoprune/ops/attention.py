"""Attention received: how strongly each token is attended to, without the B x H x N x N matrix in memory."""

from __future__ import annotations

import torch
from torch import Tensor

# Logits held at a time: small on a CPU, where they should stay in the cache, large on a GPU, which wants few
# launches.
_CHUNK_CPU = 1 << 19
_CHUNK_DEVICE = 1 << 26


@torch.no_grad()
def received_attention(
    query: Tensor,
    key: Tensor,
    scaling: float,
    *,
    key_bias: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> Tensor:
    """Return the attention each key receives: the column mean, over queries and heads, of the attention
    matrix.

    Parameters
    ----------
    query
        (B, H, Tq, D), any floating dtype.
    key
        (B, Hk, Tk, D), where Hk divides H (grouped-query attention).
    scaling
        Factor on the logits, usually ``D ** -0.5``.
    key_bias
        (B, Tk) added to the logits, such as log sizes, or -inf for padding. Any shape that broadcasts to
        (B, H, Tq, Tk) with four dimensions is taken too.
    query_mask
        (B, Tq) bool, True where a query counts. Rows without any such query receive 0.

    Returns
    -------
    Tensor
        (B, Tk) float32. Sums to 1 over the keys.

    Raises
    ------
    ValueError
        Shapes that do not fit together.

    Notes
    -----
    EvoPrune (arXiv 2603.03681), section 3.2 prints the row mean, which is 1 / N for every token; the text
    means the column mean, as implemented here.
    """
    _shapes(query, key, key_bias, query_mask)
    return _pass(query, key, None, scaling, key_bias, query_mask)[1]


@torch.no_grad()
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    *,
    key_bias: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the attention's output and what each key receives, from one product of queries and keys.

    On a CPU in float32 this costs about half of running the attention and `received_attention` apart. It
    keeps no graph: where gradients are wanted, run both.

    Parameters
    ----------
    value
        (B, Hk, Tk, Dv); the rest as in `received_attention`.

    Returns
    -------
    output, received
        (B, H, Tq, Dv) in the dtype of `value`, computed in float32, and (B, Tk) float32.

    Raises
    ------
    ValueError
        Shapes that do not fit together.
    """
    _shapes(query, key, key_bias, query_mask)
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value {tuple(value.shape)} does not fit key {tuple(key.shape)}: give (B, Hk, Tk, Dv)")
    output, received = _pass(query, key, value, scaling, key_bias, query_mask)
    return output.view(*query.shape[:3], -1).to(value.dtype), received


def _pass(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    key_bias: Tensor | None,
    query_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    weight = _query_weight(query, query_mask)
    q, k, bias, weight = _by_key_head(query, key, key_bias, weight)
    v = None if value is None else value.reshape(k.shape[0], k.shape[1], -1)
    outputs, parts = [], []
    with torch.autocast(query.device.type, enabled=False):
        for rows in _chunks(q, k):
            logits = torch.bmm(q[rows].float() * scaling, k[rows].float().transpose(1, 2))
            inverse = _exponentials(logits, None if bias is None else bias[rows]).reciprocal_()
            # The weights of the queries over the sums of their rows, times the matrix: softmax and column
            # mean at once.
            parts.append(torch.bmm((weight[rows] * inverse).unsqueeze(1), logits).squeeze(1))
            if v is not None:
                outputs.append(torch.bmm(logits, v[rows].float()).mul_(inverse.unsqueeze(2)))
    received = torch.cat(parts).view(query.shape[0], -1, key.shape[2]).sum(1)
    return torch.cat(outputs) if outputs else received, received


def _shapes(query: Tensor, key: Tensor, key_bias: Tensor | None, query_mask: Tensor | None) -> None:
    if query.dim() != 4 or key.dim() != 4 or query.shape[0] != key.shape[0] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} do not fit: give (B, H, Tq, D) and (B, Hk, Tk, D)"
        )
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{key.shape[1]} key heads do not divide {query.shape[1]} query heads: give a divisor")
    if key_bias is not None and key_bias.dim() != 4 and key_bias.shape != (key.shape[0], key.shape[2]):
        raise ValueError(f"key_bias {tuple(key_bias.shape)} does not fit: give {(key.shape[0], key.shape[2])}")
    if query_mask is not None and query_mask.shape != (query.shape[0], query.shape[2]):
        raise ValueError(f"query_mask {tuple(query_mask.shape)} does not fit: give {(query.shape[0], query.shape[2])}")


def _query_weight(query: Tensor, query_mask: Tensor | None) -> Tensor:
    heads, length = query.shape[1:3]
    if query_mask is None:
        return torch.full((1, 1, 1), 1.0 / (heads * length), device=query.device)
    counted = query_mask.float()
    return (counted / (heads * counted.sum(-1, keepdim=True).clamp(min=1.0))).unsqueeze(1)


def _by_key_head(
    query: Tensor, key: Tensor, key_bias: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Flatten batch and key heads into one dimension; the query heads that share a key head are stacked."""
    batch, heads, length, _ = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    group = heads // key_heads
    q = query.reshape(batch * key_heads, group * length, -1)
    k = key.reshape(batch * key_heads, keys, -1)
    shape = (batch, key_heads, group, length)
    w = weight.unsqueeze(1).expand(shape).reshape(batch * key_heads, group * length)
    if key_bias is None:
        return q, k, None, w
    if key_bias.dim() == 4 and (key_bias.shape[1] > 1 or key_bias.shape[2] > 1):
        full = key_bias.expand(batch, heads, length, keys)
        return q, k, full.reshape(batch * key_heads, group * length, keys), w
    row = key_bias.reshape(-1, 1, 1, keys).expand(batch, key_heads, 1, keys)
    return q, k, row.reshape(batch * key_heads, 1, keys), w


def _chunks(q: Tensor, k: Tensor) -> list[slice]:
    slices, size = q.shape[0], q.shape[1] * k.shape[1]
    if torch.compiler.is_compiling() and q.device.type == "cpu":
        return [slice(0, slices)]  # the compiler fuses, and a long unrolled loop would only slow it down
    budget = _CHUNK_CPU * torch.get_num_threads() if q.device.type == "cpu" else _CHUNK_DEVICE
    step = max(1, min(slices, budget // max(1, size)))
    return [slice(start, start + step) for start in range(0, slices, step)]


def _exponentials(logits: Tensor, bias: Tensor | None) -> Tensor:
    """Turn the logits (in place) into exp(logit - row maximum), and return the sums of the rows."""
    if bias is not None:
        logits.add_(bias)
    # A row of -inf only (a padded query) has no maximum to subtract; its exponentials are then 0, not NaN.
    peak = logits.amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
    logits.sub_(peak).exp_()
    return logits.sum(-1).clamp_(min=torch.finfo(torch.float32).tiny)
