"""Nearest neighbours: the K largest cosines of each token to the others, with nothing T x T in memory.

Twin of what `evoprune.ops.density` takes from `cosines`. The Gram matrix is symmetric, so only the tiles on and above
its diagonal are computed, and each serves the tokens of its rows and those of its columns: 21 tiles of 128 x 128
instead of 36 for 729 tokens. A tile leaves the K best of each of its tokens in a (B, T, tiles, K) buffer (5.6 MB for 64
frames), which a second kernel, or nothing where one tile holds all tokens, brings down to (B, T, K).

Within a tile the top K is a sorting network: the columns are split in halves until 8 are left, which is free, as a
thread holds columns 8 apart, and each of them is inserted into K sorted running maxima. That is 2 K - 1 minima and
maxima an element and no exchange between threads; K passes of "take the maximum, strike it out" are twice that, each
with a reduction. An SM does 64 of them and 2,048 products a cycle: with K = 5 a tile of 128 x 128 x 1152 takes 9,216
cycles of tensor cores and, both ways, 4,600 of the network, which run beside another tile's products. For 64 frames of
729 x 1152 on an H200: 51 GFLOP, and 107 MB from memory, then from the L2 cache.
"""

# Tuples grow within a kernel, which the types of Python do not foresee.
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..density import cosines, distinct_from
from .layout import blocks_of, channels, power_of_two, precision, product, row_starts, rows_of, unit_of

MOST = 16  # neighbours that the network holds in registers; beyond, torch sorts them out picture by picture
_SMS = 128  # about as many tiles as fill a large GPU once


def norms(tokens: Tensor) -> Tensor:
    """Return 1 / length of each token of (B, T, C), (B, T) float32; 0 for a zero vector.

    The squares are summed by the same products as the Gram matrix: tensor cores cut their sums off, up to 1e-5 on 1152
    channels, and only if the lengths are cut off alike do duplicates come out at distance 0.
    """
    tokens = rows_of(tokens)
    batch, length, width = tokens.shape
    inverse = torch.empty((batch, length), dtype=torch.float32, device=tokens.device)
    unit = unit_of(tokens)
    block, _, stages, depth = _tiles(1, 64, tokens.dtype)
    _inverse[(blocks_of(length, block) * batch,)](
        tokens, inverse, tokens.stride(0) // unit, tokens.stride(1) // unit, length, width,
        UNIT=unit, PRECISION=precision(tokens.dtype), BLOCK=block, DEPTH=depth, EVEN=width % depth == 0,
        num_warps=4, num_stages=stages,
    )  # fmt: skip
    return inverse


def nearest(tokens: Tensor, inverse: Tensor, neighbors: int) -> Tensor:
    """Return the `neighbors` largest cosines of each token to all others, (B, T, K) float32, largest first.

    Parameters
    ----------
    tokens
        (B, T, C), any strides with a dense last dimension.
    inverse
        (B, T) float32, from `norms`.
    neighbors
        K, at least 1; -inf stands where a token has fewer others.
    """
    tokens, inverse = rows_of(tokens), inverse.contiguous()
    batch, length, width = tokens.shape
    if neighbors > MOST:
        return _sorted_out(tokens, neighbors)
    unit = unit_of(tokens)
    block, warps, stages, depth = _tiles(batch, length, tokens.dtype)
    tiles = blocks_of(length, block)
    device = tokens.device
    found = torch.empty((batch, length, tiles, neighbors), dtype=torch.float32, device=device)
    _tops[(tiles * (tiles + 1) // 2 * batch,)](
        tokens, inverse, found, tokens.stride(0) // unit, tokens.stride(1) // unit, length, width, tiles,
        K=neighbors, UNIT=unit, PRECISION=precision(tokens.dtype), BLOCK=block, DEPTH=depth, EVEN=width % depth == 0,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    if tiles == 1:
        return found.view(batch, length, neighbors)
    best = torch.empty((batch, length, neighbors), dtype=torch.float32, device=device)
    rows = 16
    _best[(blocks_of(batch * length, rows),)](
        found, best, batch * length, tiles * neighbors,
        K=neighbors, ROWS=rows, WIDTH=power_of_two(tiles * neighbors), num_warps=4,
    )  # fmt: skip
    return best


def weights(near: Tensor, diversity: float, bandwidth: float | None = None) -> Tensor:
    """Return exp(-diversity d) of each token, (B, T) float32, d from `evoprune.ops.density.distinct_from`: one launch
    instead of a dozen.

    Parameters
    ----------
    near
        (B, T, K) float32 cosines to the nearest neighbours, from `nearest`.
    diversity, bandwidth
        lambda and tau, as in `evoprune.ops.match`.
    """
    batch, length, neighbors = near.shape
    if neighbors > MOST:  # a tile of so many would not fit
        return torch.exp(-diversity * distinct_from(near, bandwidth))
    weight = torch.empty((batch, length), dtype=torch.float32, device=near.device)
    _weights[(batch,)](
        near.contiguous(), weight, length, float(diversity), 0.0 if bandwidth is None else float(bandwidth) ** -2,
        K=neighbors, WIDTH=power_of_two(neighbors), BLOCK=512, GIVEN=bandwidth is not None, num_warps=8,
    )  # fmt: skip
    return weight


def _tiles(batch: int, length: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Return the side of a tile, warps, stages, and channels of a step.

    Two programs with tiles of 128 fit an SM, so one's network runs beside the other's products. Tiles of 64 where there
    are too few programs otherwise (one image), or where much of a tile of 128 would be padding.
    """
    if dtype == torch.float32:  # products without tensor cores: operands lie in registers
        return 64, 4, 2, 16
    wide, narrow = blocks_of(length, 128), blocks_of(length, 64)
    if batch * wide * (wide + 1) // 2 < _SMS or narrow * (narrow + 1) < 0.75 * 4 * wide * (wide + 1):
        return 64, 4, 4, 64
    return 128, 4, 3, 64


def _sorted_out(tokens: Tensor, neighbors: int) -> Tensor:
    best = []
    for image in tokens:
        cosine = cosines(image[None])[0].fill_diagonal_(float("-inf"))
        best.append(cosine.topk(min(neighbors, cosine.shape[-1]), dim=-1).values)
    found = torch.stack(best)
    return torch.nn.functional.pad(found, (0, neighbors - found.shape[-1]), value=float("-inf"))


@triton.jit
def _inverse(tokens, inverse, image_stride, token_stride, length, width, UNIT: tl.constexpr, PRECISION: tl.constexpr,
             BLOCK: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    blocks = tl.cdiv(length, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    rows = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    at = row_starts(tokens + image * image_stride * UNIT, rows, length, token_stride, UNIT)
    gram = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, width, DEPTH):
        part = channels(at, start, width, DEPTH, EVEN)
        gram = product(part, part, gram, PRECISION)
    here = tl.arange(0, BLOCK)
    squares = tl.sum(tl.where(here[:, None] == here[None, :], gram, 0.0), 1)
    scale = tl.where(squares > 0, 1.0 / tl.sqrt_rn(tl.where(squares > 0, squares, 1.0)), 0.0)
    tl.store(inverse + image * length + rows, scale, mask=rows < length)


@triton.jit
def _tops(tokens, inverse, found, image_stride, token_stride, length, width, tiles, K: tl.constexpr,
          UNIT: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
          EVEN: tl.constexpr):  # fmt: skip
    """Write the K best of one tile's rows and, off the diagonal, of its columns."""
    count = tiles * (tiles + 1) // 2
    image = (tl.program_id(0) // count).to(tl.int64)
    place = tl.program_id(0) % count
    # Place p counts the tiles (0, 0), (0, 1), (1, 1), (0, 2), ...: column by column of the upper triangle.
    down = ((tl.sqrt((8 * place + 1).to(tl.float32)) - 1.0) * 0.5).to(tl.int32)
    down = tl.where(down * (down + 1) // 2 > place, down - 1, down)
    down = tl.where((down + 1) * (down + 2) // 2 <= place, down + 1, down)
    across = place - down * (down + 1) // 2
    tokens += image * image_stride * UNIT
    inverse += image * length
    rows = across * BLOCK + tl.arange(0, BLOCK)
    columns = down * BLOCK + tl.arange(0, BLOCK)
    left = row_starts(tokens, rows, length, token_stride, UNIT)
    right = row_starts(tokens, columns, length, token_stride, UNIT)
    gram = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, width, DEPTH):
        part = channels(left, start, width, DEPTH, EVEN)
        gram = product(part, channels(right, start, width, DEPTH, EVEN), gram, PRECISION)
    cosine = gram * tl.load(inverse + rows, mask=rows < length, other=0.0)[:, None]
    cosine = cosine * tl.load(inverse + columns, mask=columns < length, other=0.0)[None, :]
    nobody = (rows[:, None] == columns[None, :]) | (rows[:, None] >= length) | (columns[None, :] >= length)
    cosine = tl.where(nobody, float("-inf"), cosine)
    _store_tops(cosine, found + ((image * length + rows) * tiles + down) * K, rows < length, K)
    if across != down:
        _store_tops(tl.trans(cosine), found + ((image * length + columns) * tiles + across) * K, columns < length, K)


@triton.jit
def _store_tops(values, at, mask, K: tl.constexpr):
    """Write the K largest of each row, largest first."""
    tops = ()
    for _ in tl.static_range(K):
        tops = tops + (tl.full([values.shape[0], 8], float("-inf"), tl.float32),)  # noqa: RUF005
    tops = _insert_halves(values, tops, K)
    slot = tl.arange(0, 8)
    for place in tl.static_range(K):
        # The lists of the 8 slots are sorted: the largest of all is the head of one of them, which then moves up.
        largest = tl.max(tops[0], 1)
        tl.store(at + place, largest, mask=mask)
        winner = tl.min(tl.where(tops[0] == largest[:, None], slot[None, :], 8), 1)[:, None] == slot[None, :]
        moved = ()
        for step in tl.static_range(K - 1 - place):
            moved = moved + (tl.where(winner, tops[step + 1], tops[step]),)  # noqa: RUF005
        tops = moved


@triton.jit
def _insert_halves(values, tops, K: tl.constexpr):
    """Insert all columns into the running maxima, of 8 slots each: the halves are taken apart until 8 are left."""
    if values.shape[1] > 8:
        halves: tl.constexpr = [values.shape[0], 2, values.shape[1] // 2]
        first, second = tl.split(tl.permute(tl.reshape(values, halves), [0, 2, 1]))
        return _insert_halves(second, _insert_halves(first, tops, K), K)
    else:
        return _insert(values, tops, K)


@triton.jit
def _insert(values, tops, K: tl.constexpr):
    new = ()
    for place in tl.static_range(K):
        new = new + (tl.maximum(tops[place], values),)  # noqa: RUF005
        values = tl.minimum(tops[place], values)
    return new


@triton.jit
def _best(found, best, rows, width, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Write the K largest of each of `rows` rows of `width` values, largest first."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row[:, None] < rows) & (column[None, :] < width)
    values = tl.load(found + row[:, None] * width + column[None, :], mask=inside, other=float("-inf"))
    for place in tl.static_range(K):
        largest = tl.max(values, 1)
        tl.store(best + row * K + place, largest, mask=row < rows)
        winner = tl.min(tl.where(values == largest[:, None], column[None, :], WIDTH), 1)
        values = tl.where(column[None, :] == winner[:, None], float("-inf"), values)


@triton.jit
def _weights(near, weight, length, diversity, factor, K: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
             GIVEN: tl.constexpr):  # fmt: skip
    """Write the weights of one picture: first the mean of all its distances, unless tau is given, then each token."""
    image = tl.program_id(0).to(tl.int64)
    near += image * length * K
    column = tl.arange(0, WIDTH)
    if not GIVEN:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, length, BLOCK):
            row = start + tl.arange(0, BLOCK)
            total += tl.sum(_distances(near, row, column, length, K), 1)
        mean = tl.sum(total, 0) / (length * K)
        factor = tl.where(mean > 0, 1.0 / tl.where(mean > 0, mean, 1.0), 0.0)  # 0: everybody is close to everybody
    for start in range(0, length, BLOCK):
        row = start + tl.arange(0, BLOCK)
        close = tl.exp(-_distances(near, row, column, length, K) * factor)
        close = tl.sum(tl.where(column[None, :] < K, close, 0.0), 1) / K
        tl.store(weight + image * length + row, tl.exp(-diversity * (1.0 - close)), mask=row < length)


@triton.jit
def _distances(near, row, column, length, K: tl.constexpr):
    """Return 2 - 2 cos, 0 where float32 cannot tell it from 0, and where there is none."""
    inside = (row[:, None] < length) & (column[None, :] < K)
    distance = 2.0 - 2.0 * tl.load(near + row[:, None] * K + column[None, :], mask=inside, other=1.0)
    return tl.where(distance < 1e-6, 0.0, distance)
