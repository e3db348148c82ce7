"""What all kernels ask of their operands: dtypes that fit, strides, and loads of 16 bytes where memory allows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def blocks_of(length: int, block: int) -> int:
    """Return how many blocks hold `length`. (triton.cdiv is none of the functions that torch.compile can trace.)"""
    return -(-length // block)


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def rows_of(tensor: Tensor) -> Tensor:
    """Return the tensor with its last dimension dense; any other stride is taken as it is."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def unit_of(*tensors: Tensor) -> int:
    """Return how many elements a kernel may take at once from every row: 16 bytes' worth, or 1.

    Triton sees by itself that a stride is a multiple of 16 elements, not that it is one of 8: that of heads of 72 is
    not, and all loads would shrink to 2 bytes. So strides are handed over in these units and multiplied out again.
    """
    unit = 16 // tensors[0].element_size()
    for tensor in tensors:
        if any(stride % unit for stride in tensor.stride()[:-1]):
            return 1
    return unit


def precision(dtype: torch.dtype) -> str:
    """Return how `product` multiplies: float32 in full, the others by tensor cores, exactly as they are.

    Triton's interpreter multiplies the bits of bfloat16 as integers, so there the operands are widened first.
    """
    if dtype == torch.bfloat16 and INTERPRETED:
        return "widen"
    return "ieee" if dtype == torch.float32 else "tf32"


def split_width(width: int) -> tuple[int, int]:
    """Return two powers of two (the second may be 0) that hold a head: 72 = 64 + 16 (8 of them masked), 96 = 64 + 32.

    One power of two would be 128 for 72: 1.8 times the products and the shared memory. Two add up to 80.
    """
    first = 1 << (width.bit_length() - 1)
    if first < 16 or first == width:
        return max(16, first if first == width else 2 * first), 0
    rest = max(16, power_of_two(width - first))
    return (2 * first, 0) if rest == first else (first, rest)


@triton.jit
def row_starts(pointer, rows, length, stride, UNIT: tl.constexpr):
    """Return pointers [rows, 1] to rows; behind the last of them stands the last one: cheaper than a mask."""
    return pointer + tl.minimum(rows, length - 1).to(tl.int64)[:, None] * (stride * UNIT)


@triton.jit
def channels(rows, start, width, DEPTH: tl.constexpr, EVEN: tl.constexpr):
    """Load DEPTH channels of rows from `start` on; zeros behind the last channel, unless EVEN says there are none."""
    channel = tl.arange(0, DEPTH)[None, :]
    if EVEN:
        return tl.load(rows + start + channel)
    return tl.load(rows + start + channel, mask=channel < width - start, other=0.0)


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """Return left right^T + total, in float32."""
    if PRECISION == "widen":
        return tl.dot(left.to(tl.float32), tl.trans(right.to(tl.float32)), total, input_precision="ieee")
    return tl.dot(left, tl.trans(right), total, input_precision=PRECISION)


INTERPRETED = not isinstance(product, triton.JITFunction)
