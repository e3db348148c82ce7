"""The best partner of every token of group a among group b, with nothing na x nb in memory.

Twin of the score and its first maximum in `evoprune.ops.matching`. A program takes a block of a's tokens and walks over
b: rows are gathered by index straight from the tokens (a row is contiguous, so a gather costs no more than a read), the
tile of products becomes scores in registers, and maximum and place are carried along. Ties: within a tile the lowest
place, between tiles the earlier one. The softmax needs no pass of its own: its denominator scales a whole row, so it is
summed on the way and divided out of the maximum.

For 64 frames of 729 x 1152, a quarter of them protected: groups of 273, held as 320 x 384, 18 GFLOP, 40 us at 450
TFLOP/s.
Nine operations an element follow 1,152 products: the tensor cores are the bound.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import blocks_of, channels, precision, product, row_starts, rows_of, unit_of

KINDS = {"cosine": 0, "sigmoid": 1, "softmax": 2}
_SMS = 128


def best_partners(
    tokens: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    first: Tensor,
    second: Tensor,
    barred: Tensor | None,
    similarity: str,
) -> tuple[Tensor, Tensor]:
    """Return, for each a, the largest similarity(cos_ij) weight_i weight_j over the j that are not barred, and the
    first j that attains it.

    Parameters
    ----------
    tokens
        (B, T, C), any strides with a dense last dimension.
    inverse
        (B, T) float32, 1 / length of each token, from `density.norms`.
    weight
        (B, T) float32, at least 0, or None for 1.
    first, second
        (B, na) and (B, nb) int64: the members of the groups.
    barred
        (B, nb) bool: who of b takes no part, or None. Where nobody is left, the maximum is -inf and the place 0.
    similarity
        ``"cosine"``, ``"sigmoid"``, or ``"softmax"`` over the j that are not barred.

    Returns
    -------
    best, choice
        (B, na) float32 and int64 places in `second`.
    """
    tokens, inverse = rows_of(tokens), inverse.contiguous()
    batch, length, width = tokens.shape
    givers, takers = first.shape[1], second.shape[1]
    best = torch.empty((batch, givers), dtype=torch.float32, device=tokens.device)
    choice = torch.empty((batch, givers), dtype=torch.int64, device=tokens.device)
    unit = unit_of(tokens)
    block, walk, warps, stages, depth = _blocks(batch, givers, takers, tokens.dtype)
    # The weight of both sides is one factor each with the length, but the reference multiplies it last: so does this.
    _partners[(blocks_of(givers, block) * batch,)](
        tokens, inverse, None if weight is None else weight.contiguous(), first, second, barred, best, choice,
        tokens.stride(0) // unit, tokens.stride(1) // unit, *first.stride(), *second.stride(),
        *((0, 0) if barred is None else barred.stride()),
        length, width, givers, takers,
        KIND=KINDS[similarity], UNIT=unit, PRECISION=precision(tokens.dtype), BLOCK=block, WALK=walk, DEPTH=depth,
        EVEN=width % depth == 0, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return best, choice


def _blocks(batch: int, givers: int, takers: int, dtype: torch.dtype) -> tuple[int, int, int, int, int]:
    """Return tokens of a program, tokens of a step, warps, stages, channels of a step.

    Few images want many small programs with long steps, as each waits for its loads; many want tiles that pay.
    """
    if dtype == torch.float32:  # products without tensor cores: operands lie in registers
        return (32 if batch * givers < 64 * _SMS else 64), 64, 4, 2, 16
    walk = 64 if blocks_of(takers, 64) * 64 < 0.8 * blocks_of(takers, 128) * 128 else 128
    if batch * blocks_of(givers, 64) < _SMS:
        return 16, walk, 4, 3, 128
    return 64, walk, 4, 3, 64


@triton.jit
def _partners(
    tokens, inverse, weight, first, second, barred, best, choice, image_stride, token_stride,
    first_image, first_place, second_image, second_place, barred_image, barred_place,
    length, width, givers, takers,
    KIND: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr,
    DEPTH: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(givers, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    tokens += image * image_stride * UNIT
    inverse += image * length
    # Places behind the last one read the first token: never stored, never chosen.
    giver = tl.load(first + image * first_image + place * first_place, mask=place < givers, other=0)
    left = row_starts(tokens, giver, length, token_stride, UNIT)
    left_scale = tl.load(inverse + giver)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    found = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, takers, WALK):
        there = start + tl.arange(0, WALK)
        taker = tl.load(second + image * second_image + there * second_place, mask=there < takers, other=0)
        out = there >= takers
        if barred is not None:
            out |= tl.load(barred + image * barred_image + there * barred_place, mask=there < takers, other=1) != 0
        right = row_starts(tokens, taker, length, token_stride, UNIT)
        gram = tl.zeros([BLOCK, WALK], tl.float32)
        for channel in range(0, width, DEPTH):
            part = channels(left, channel, width, DEPTH, EVEN)
            gram = product(part, channels(right, channel, width, DEPTH, EVEN), gram, PRECISION)
        score = gram * left_scale[:, None] * tl.load(inverse + taker)[None, :]
        if KIND == 1:
            score = 1.0 / (1.0 + tl.exp(-score))
        if KIND == 2:  # cosines need no maximum taken off before the exponential
            score = tl.where(out[None, :], 0.0, tl.exp(score))
            total += tl.sum(score, 1)
        if weight is not None:
            score = score * tl.load(weight + image * length + giver)[:, None]
            score = score * tl.load(weight + image * length + taker)[None, :]
        score = tl.where(out[None, :], float("-inf"), score)
        top = tl.max(score, 1)
        where = tl.min(tl.where(score == top[:, None], there[None, :], takers - 1), 1)
        found = tl.where(top > largest, where, found)
        largest = tl.maximum(largest, top)
    if KIND == 2:
        largest = largest / tl.where(total > 0, total, 1.0)
    tl.store(best + image * givers + place, largest, mask=place < givers)
    tl.store(choice + image * givers + place, found.to(tl.int64), mask=place < givers)
