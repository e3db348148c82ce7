"""One pass over the attention matrix, a block of it at a time: the columns' means, and the output on the way."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Logits held at a time: small on a CPU, where they should stay in the cache, large on a GPU, which wants few
# launches.
_CHUNK_CPU = 1 << 19
_CHUNK_DEVICE = 1 << 26


def attention_pass(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    key_bias: Tensor | None,
    query_mask: Tensor | None,
) -> tuple[Tensor | None, Tensor]:
    """Return softmax(q k^T scaling + bias) v, (B Hk, H / Hk Tq, Dv) float32, None without values, and (B, Tk) float32.

    The latter is the mean of the matrix over its counted queries and heads. Shapes as in `ops.attend`.
    """
    weight = _query_weight(query, query_mask)
    q, k, bias, weight = _by_key_head(query, key, key_bias, weight)
    v = None if value is None else value.reshape(k.shape[0], k.shape[1], -1)
    outputs, sums = [], []
    with torch.autocast(query.device.type, enabled=False):
        for heads, blocks in _chunks(q, k):
            across, wide = k[heads].float().transpose(1, 2), None if v is None else v[heads].float()
            parts, total = [], None
            for rows in blocks:
                logits = torch.bmm(q[heads, rows].float() * scaling, across)
                inverse = _exponentials(logits, _rows_of(bias, heads, rows)).reciprocal_()
                # The weights of the queries over the sums of their rows, times the matrix: softmax and column
                # mean at once.
                part = torch.bmm((weight[heads, rows] * inverse).unsqueeze(1), logits).squeeze(1)
                total = part if total is None else total.add_(part)
                if wide is not None:
                    parts.append(torch.bmm(logits, wide).mul_(inverse.unsqueeze(2)))
            sums.append(total)
            outputs.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1) if parts else None)
    received = torch.cat(sums).view(query.shape[0], -1, key.shape[2]).sum(1)  # type: ignore[arg-type]
    return (None if v is None else torch.cat(outputs)), received  # type: ignore[arg-type]


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


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Yield some of the flattened heads, with the blocks of rows that go together."""
    heads, length, keys = q.shape[0], q.shape[1], k.shape[1]
    if torch.compiler.is_compiling() and q.device.type == "cpu":
        yield slice(0, heads), [slice(0, length)]  # the compiler fuses, and a long unrolled loop would slow it down
        return
    budget = _CHUNK_CPU * torch.get_num_threads() if q.device.type == "cpu" else _CHUNK_DEVICE
    step = max(1, min(heads, budget // max(1, length * keys)))
    count = max(1, -(-length * keys // budget)) if step == 1 else 1
    block = max(1, -(-length // count))
    rows = [slice(start, start + block) for start in range(0, length, block)]
    for start in range(0, heads, step):
        yield slice(start, start + step), rows


def _rows_of(bias: Tensor | None, heads: slice, rows: slice) -> Tensor | None:
    if bias is None:
        return None
    return bias[heads] if bias.shape[1] == 1 else bias[heads, rows]


def _exponentials(logits: Tensor, bias: Tensor | None) -> Tensor:
    """Turn the logits (in place) into exp(logit - row maximum), and return the sums of the rows."""
    if bias is not None:
        logits.add_(bias)
    # A row of -inf only (a padded query) has no maximum to subtract; its exponentials are then 0, not NaN.
    peak = logits.amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
    logits.sub_(peak).exp_()
    return logits.sum(-1).clamp_(min=torch.finfo(torch.float32).tiny)
