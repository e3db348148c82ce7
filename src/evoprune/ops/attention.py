"""Attention received: how strongly each token is attended to, without the B x H x N x N matrix in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import kernels
from .attention_pass import attention_pass
from .fused import fused_attention


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
    found = _by_kernel(query, key, scaling, None, key_bias, query_mask)
    return attention_pass(query, key, None, scaling, key_bias, query_mask)[1] if found is None else found


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
    """Return the attention's output and what each key receives, with as little done twice as the device allows.

    On a CPU both come from one product of queries and keys, which costs about two thirds of running the attention and
    `received_attention` apart. On a GPU the attention runs in the kernel that `scaled_dot_product_attention` would
    choose, and the column sums are taken with the log-sum-exp that it leaves. No graph is kept: where gradients are
    wanted, run both apart.

    Parameters
    ----------
    value
        (B, Hk, Tk, Dv); the rest as in `received_attention`.

    Returns
    -------
    output, received
        (B, H, Tq, Dv) in the dtype of `value`, and (B, Tk) float32.

    Raises
    ------
    ValueError
        Shapes that do not fit together.
    """
    _shapes(query, key, key_bias, query_mask)
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value {tuple(value.shape)} does not fit key {tuple(key.shape)}: give (B, Hk, Tk, Dv)")
    if _kernel_takes(query, key, key_bias):
        output, sums = fused_attention(query, key, value, scaling, key_bias)
        if sums is not None and key_bias is not None:
            key_bias = key_bias.to(query.dtype)  # as the attention took it
        found = _by_kernel(query, key, scaling, sums, key_bias, query_mask)
        if found is None:
            found = attention_pass(query, key, None, scaling, key_bias, query_mask)[1]
        return output, found
    whole, received = attention_pass(query, key, value, scaling, key_bias, query_mask)
    return whole.view(*query.shape[:3], -1).to(value.dtype), received  # type: ignore[union-attr]


def _kernel_takes(query: Tensor, key: Tensor, key_bias: Tensor | None) -> bool:
    return kernels.usable(query, key) and (key_bias is None or key_bias.dim() == 2)


def _by_kernel(
    query: Tensor, key: Tensor, scaling: float, lse: Tensor | None, key_bias: Tensor | None, query_mask: Tensor | None
) -> Tensor | None:
    if not _kernel_takes(query, key, key_bias):
        return None
    from .kernels.received import column_means

    return kernels.attempt(
        "received", column_means, query, key, scaling, lse=lse, key_bias=key_bias, query_mask=query_mask
    )


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
