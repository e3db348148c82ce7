"""The attention that torch would run on a GPU, with the log-sum-exp of its rows, which it has computed anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, key_bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return `scaled_dot_product_attention`, and the log-sum-exp of its rows where the backend in use leaves one.

    Parameters
    ----------
    query, key, value
        (B, H, Tq, D), (B, Hk, Tk, D), (B, Hk, Tk, Dv).
    key_bias
        (B, Tk), added to the logits.

    Returns
    -------
    output, sums
        (B, H, Tq, Dv), and (B, H, Tq) float32 natural logarithms, or None.
    """
    mask = None if key_bias is None else key_bias[:, None, None, :].to(query.dtype)
    backend = _backend(query, key, value, mask, scaling)
    aten = torch.ops.aten
    if backend == SDPBackend.FLASH_ATTENTION.value and mask is None:
        found = aten._scaled_dot_product_flash_attention.default(query, key, value, 0.0, False, False, scale=scaling)
    elif backend == SDPBackend.CUDNN_ATTENTION.value:
        found = aten._scaled_dot_product_cudnn_attention.default(
            query, key, value, mask, True, 0.0, False, False, scale=scaling
        )
    elif backend == SDPBackend.EFFICIENT_ATTENTION.value and mask is None:
        # (With a mask it asks for aligned memory, which only the function around it arranges.)
        found = aten._scaled_dot_product_efficient_attention.default(
            query, key, value, None, True, 0.0, False, scale=scaling
        )
    else:
        grouped = query.shape[1] != key.shape[1]
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped
        )
        return output, None
    sums = found[1].reshape(*query.shape[:2], -1)[:, :, : query.shape[2]]  # some are padded, some end in a 1
    return found[0], sums


def _backend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> int | None:
    """Return which backend torch would choose, None where it is not to be called by itself."""
    plain = query.is_cuda and query.shape[1] == key.shape[1] and query.shape[-1] % 8 == 0 and value.shape[-1] % 8 == 0
    if not plain or torch.compiler.is_compiling():  # the choice is no operation that a graph can hold
        return None
    return int(torch._fused_sdp_choice(query, key, value, mask, 0.0, False, scale=scaling))
