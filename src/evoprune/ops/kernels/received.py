"""Received attention: column means of softmax(Q K^T) with nothing Tq x Tk in memory.

Twin of `evoprune.ops.received_attention`. With the rows' log-sum-exp at hand one product is enough: a program takes a
block of keys of one head, walks over the queries and keeps the sums of its columns in registers, so there are no
atomics and the result is the same every time. The heads go to a (B, H, Tk) buffer, summed afterwards: for one image
programs of single heads fill the GPU, and for many the buffer is 2 % of the keys' bytes.

For each pair of tokens and head: 2 D products, one addition-multiplication, one exp2, one addition. An SM of Hopper
does 4,096 FLOP and 16 exp2 a cycle, so a tile of 128 x 128 takes 640 cycles of tensor cores (heads of 72 held as 80)
and 1,024 of exp2, which is the bound: 0.15 ms for 64 frames of 729 tokens with 16 heads on an H200. A second pass, for
the log-sum-exp, costs as much again. Bytes: queries are read once per block of 128 keys, from the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import blocks_of, channels, precision, product, row_starts, rows_of, split_width, unit_of

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453


def column_means(
    query: Tensor,
    key: Tensor,
    scaling: float,
    *,
    lse: Tensor | None = None,
    key_bias: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> Tensor:
    """Return the attention each key receives, (B, Tk) float32: `evoprune.ops.received_attention` as a kernel.

    Parameters
    ----------
    query
        (B, H, Tq, D), any strides with a dense last dimension.
    key
        (B, Hk, Tk, D), Hk divides H.
    lse
        (B, H, Tq) float32, natural log-sum-exp of the scaled and biased logits. None: a first pass computes it.
    key_bias
        (B, Tk) on the logits.
    query_mask
        (B, Tq) bool, True where a query counts.
    """
    query, key = rows_of(query), rows_of(key)
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    bias = None if key_bias is None else key_bias.float().contiguous()
    counted = None if query_mask is None else query_mask.to(torch.int8).contiguous()
    unit = unit_of(query, key)
    low, high = split_width(width)
    strides = [stride // unit for tensor in (query, key) for stride in tensor.stride()[:3]]
    rest = (heads, heads // key.shape[1], queries, keys, scaling * LOG2E)
    fixed = {"D": width, "LOW": low, "HIGH": high, "UNIT": unit, "PRECISION": precision(query.dtype)}
    if lse is None:
        lse = torch.empty((batch, heads, queries), dtype=torch.float32, device=query.device)
        block, walk, warps, stages = _blocks(queries, width, query.dtype)
        grid = (blocks_of(queries, block) * heads * batch,)
        _row_sums[grid](
            query, key, bias, lse, *strides, *rest, **fixed,
            BLOCK=block, WALK=walk, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    lse = lse.reshape(batch, heads, -1)[..., :queries].contiguous()  # some backends pad it, or add a dimension
    sums = torch.empty((batch, heads, keys), dtype=torch.float32, device=query.device)
    block, walk, warps, stages = _blocks(keys, width, query.dtype)
    grid = (blocks_of(keys, block) * heads * batch,)
    _column_sums[grid](
        query, key, bias, lse, counted, sums, *strides, *rest, **fixed,
        BLOCK=block, WALK=walk, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return sums.sum(1)


def _blocks(length: int, width: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Return tokens of a program, tokens of a step of its walk, warps, stages.

    Blocks of 128 halve the traffic; of 64 where 128 would be mostly padding, as with the last layers' 64 tokens.
    """
    if dtype == torch.float32:  # products without tensor cores: operands lie in registers
        return 32, 32, 4, 2
    padded = blocks_of(length, 128) * 128
    if blocks_of(length, 64) * 64 < 0.85 * padded:
        return 64, 128 if width <= 80 else 64, 4, 3
    return 128, 128 if width <= 80 else 64, 8, 2


@triton.jit
def _tile(pointer, tokens, length, stride, START: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr,
          UNIT: tl.constexpr):  # fmt: skip
    """Load [tokens, SIZE] columns of a head from START on; zeros behind its last column."""
    rows = row_starts(pointer, tokens, length, stride, UNIT)
    return channels(rows, START, D, SIZE, START + SIZE <= D)


@triton.jit
def _row_sums(
    query, key, bias, lse, sqb, sqh, sqt, skb, skh, skt, heads, group, queries, keys, scale,
    D: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, WALK: tl.constexpr,
):  # fmt: skip
    """Write the log-sum-exp of one block of queries of one head; the sum is carried along with its maximum."""
    blocks = tl.cdiv(queries, BLOCK)
    place = tl.program_id(0)
    image = (place // (blocks * heads)).to(tl.int64)
    head = place // blocks % heads
    rows = place % blocks * BLOCK + tl.arange(0, BLOCK)
    query += (image * sqb + head * sqh) * UNIT
    key += (image * skb + head // group * skh) * UNIT
    low = _tile(query, rows, queries, sqt, 0, LOW, D, UNIT)
    if HIGH > 0:
        high = _tile(query, rows, queries, sqt, LOW, HIGH, D, UNIT)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, keys, WALK):
        columns = start + tl.arange(0, WALK)
        gram = tl.zeros([BLOCK, WALK], tl.float32)
        gram = product(low, _tile(key, columns, keys, skt, 0, LOW, D, UNIT), gram, PRECISION)
        if HIGH > 0:
            gram = product(high, _tile(key, columns, keys, skt, LOW, HIGH, D, UNIT), gram, PRECISION)
        # Added to the logits anyway, so that keys behind the last one cost nothing.
        extra = tl.where(columns < keys, 0.0, float("-inf"))
        if bias is not None:
            extra += tl.load(bias + image * keys + columns, mask=columns < keys, other=0.0) * 1.4426950408889634
        logits = gram * scale + extra[None, :]
        new = tl.maximum(peak, tl.max(logits, 1))
        # A row of -inf only has no maximum to subtract; its exponentials are then 0, not NaN.
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(peak - safe) + tl.sum(tl.exp2(logits - safe[:, None]), 1)
        peak = new
    natural = tl.where(total > 0, (peak + tl.log2(total)) * 0.6931471805599453, float("-inf"))
    tl.store(lse + (image * heads + head) * queries + rows, natural, mask=rows < queries)


@triton.jit
def _column_sums(
    query, key, bias, lse, counted, sums, sqb, sqh, sqt, skb, skh, skt, heads, group, queries, keys, scale,
    D: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, WALK: tl.constexpr,
):  # fmt: skip
    """Write what one block of keys receives from all queries of one head, over heads and queries that count."""
    blocks = tl.cdiv(keys, BLOCK)
    place = tl.program_id(0)
    image = (place // (blocks * heads)).to(tl.int64)
    head = place // blocks % heads
    columns = place % blocks * BLOCK + tl.arange(0, BLOCK)
    query += (image * sqb + head * sqh) * UNIT
    key += (image * skb + head // group * skh) * UNIT
    lse += (image * heads + head) * queries
    low = _tile(key, columns, keys, skt, 0, LOW, D, UNIT)
    if HIGH > 0:
        high = _tile(key, columns, keys, skt, LOW, HIGH, D, UNIT)
    if bias is not None:
        extra = tl.load(bias + image * keys + columns, mask=columns < keys, other=0.0) * 1.4426950408889634
    total = tl.zeros([BLOCK], tl.float32)
    number = tl.zeros([WALK], tl.float32)
    for start in range(0, queries, WALK):
        rows = start + tl.arange(0, WALK)
        # Keys are the rows of the tile: its sums then stay within a thread and its three neighbours.
        gram = tl.zeros([BLOCK, WALK], tl.float32)
        gram = product(low, _tile(query, rows, queries, sqt, 0, LOW, D, UNIT), gram, PRECISION)
        if HIGH > 0:
            gram = product(high, _tile(query, rows, queries, sqt, LOW, HIGH, D, UNIT), gram, PRECISION)
        # +inf turns a row into zeros: one that does not exist, does not count or attends to nothing.
        shift = tl.load(lse + rows, mask=rows < queries, other=float("inf")) * 1.4426950408889634
        shift = tl.where(shift == float("-inf"), float("inf"), shift)
        if counted is not None:
            counts = tl.load(counted + image * queries + rows, mask=rows < queries, other=0) != 0
            shift = tl.where(counts, shift, float("inf"))
            number += tl.where(counts, 1.0, 0.0)
        if bias is not None:
            total += tl.sum(tl.exp2(gram * scale + extra[:, None] - shift[None, :]), 1)
        else:
            total += tl.sum(tl.exp2(gram * scale - shift[None, :]), 1)
    share = 1.0 / (queries * heads)
    if counted is not None:
        share = 1.0 / (tl.maximum(tl.sum(number, 0), 1.0) * heads)
    tl.store(sums + (image * heads + head) * keys + columns, total * share, mask=columns < keys)
