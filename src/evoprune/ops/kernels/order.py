"""Who is in which group, which pairs win, who is left: the index algebra of a matching in four launches.

Twin of `evoprune.ops.partition.split` without padding and of the sorts in `evoprune.ops.match`. In torch these are some
forty launches of a few microseconds, more than the products of a late layer take. Here a sort is a count: the place of
a token is the number of those that come before it, T^2 comparisons (34 million for 64 frames of 729 tokens); a list of
members is a running sum over flags. Floats are compared as integers of the same order, so that NaN has a place too, and
every list is a permutation whatever comes in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import blocks_of, power_of_two

_BLOCK = 64  # tokens placed by a program
_WALK = 64  # tokens compared with at a time
_CHUNK = 1024  # flags summed at a time


class Dealt(NamedTuple):
    """Both groups, as `evoprune.ops.partition.Groups`, and room for the tokens that go.

    Attributes
    ----------
    first, second, first_cost, second_cost
        (B, na) and (B, nb) int64: members, ascending, and what merging each costs (0: free).
    member
        (B, T) bool: True for group b.
    gone
        (B, T) bool, all False: `pick` marks the sources in it.
    """

    first: Tensor
    second: Tensor
    first_cost: Tensor
    second_cost: Tensor
    member: Tensor
    gone: Tensor


def deal(importance: Tensor | None, shape: tuple[int, int], size: int, mergeable: bool, device: torch.device) -> Dealt:
    """Find the `size` most important tokens and deal the others, or all, out to groups a and b.

    Parameters
    ----------
    importance
        (B, T), or None where `size` is 0.
    shape
        (B, T).
    size
        N_protect, from `evoprune.ops.protected_count`.
    mergeable
        Deal out only tokens outside S (``partition="mergeable"``); otherwise all.
    """
    batch, length = shape
    cost = None
    if importance is not None and size > 0:
        cost = torch.empty((batch, length), dtype=torch.int32, device=device)
        _costs[(blocks_of(length, _BLOCK) * batch,)](
            importance.float().contiguous(), cost, length, size, BLOCK=_BLOCK, WALK=_WALK, num_warps=4
        )
    count = length - size if mergeable and cost is not None else length
    sizes = ((count + 1) // 2, count // 2) * 2
    first, second, first_cost, second_cost = (
        torch.empty((batch, size), dtype=torch.int64, device=device) for size in sizes
    )
    member, gone = (torch.empty((batch, length), dtype=torch.bool, device=device) for _ in range(2))
    _deal[(batch,)](
        cost, first, second, first_cost, second_cost, member, gone, length, (count + 1) // 2, count // 2,
        MERGEABLE=mergeable, CHUNK=min(_CHUNK, power_of_two(length)), num_warps=4,
    )  # fmt: skip
    return Dealt(first, second, first_cost, second_cost, member, gone)


def pick(best: Tensor, choice: Tensor, dealt: Dealt, merges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return source, target (B, r) of the `merges` best pairs, and kept (B, T - r), as in `evoprune.ops.Matching`.

    Parameters
    ----------
    best, choice
        (B, na), from `scores.best_partners`.
    dealt
        From `deal`; its `gone` is filled.
    """
    batch, givers = best.shape
    length = dealt.gone.shape[1]
    source, target = (torch.empty((batch, merges), dtype=torch.int64, device=best.device) for _ in range(2))
    _pick[(blocks_of(givers, _BLOCK) * batch,)](
        best.contiguous(), choice.contiguous(), dealt.first, dealt.second, dealt.first_cost, source, target, dealt.gone,
        givers, dealt.second.shape[1], length, merges, BLOCK=_BLOCK, WALK=_WALK, num_warps=4,
    )  # fmt: skip
    kept = torch.empty((batch, length - merges), dtype=torch.int64, device=best.device)
    _keep[(batch,)](dealt.gone, kept, length, length - merges, CHUNK=min(_CHUNK, power_of_two(length)), num_warps=4)
    return source, target, kept


@triton.jit
def _ordered(value):
    """Return integers in the order of the floats: 0 and -0 alike, NaN (of either sign, like torch) above all."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(value != value, 0x7FFFFFFF, bits)


@triton.jit
def _ahead(other, there, mine, place, length):
    """Count for each of `mine` the others that come before it: larger, or equal and earlier."""
    equal = (other[None, :] == mine[:, None]) & (there[None, :] < place[:, None])
    ahead = ((other[None, :] > mine[:, None]) | equal) & (there < length)[None, :]
    return tl.sum(ahead.to(tl.int32), 1)


@triton.jit
def _before(keys, mine, place, length, BLOCK: tl.constexpr, WALK: tl.constexpr):
    """Return how many of the floats at `keys` come before each of `mine`."""
    number = tl.zeros([BLOCK], tl.int32)
    for start in range(0, length, WALK):
        there = start + tl.arange(0, WALK)
        other = _ordered(tl.load(keys + there, mask=there < length, other=float("-inf")))
        number += _ahead(other, there, mine, place, length)
    return number


@triton.jit
def _costs(importance, cost, length, size, BLOCK: tl.constexpr, WALK: tl.constexpr):
    blocks = tl.cdiv(length, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    importance += image * length
    mine = _ordered(tl.load(importance + place, mask=place < length, other=float("-inf")))
    rank = _before(importance, mine, place, length, BLOCK, WALK)
    tl.store(cost + image * length + place, tl.maximum(size - rank, 0), mask=place < length)


@triton.jit
def _deal(
    cost, first, second, first_cost, second_cost, member, gone, length, givers, takers, MERGEABLE: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Write one picture's groups: of those dealt out, even places go to a and odd ones to b."""
    image = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, CHUNK)
    done = 0
    for start in range(0, length, CHUNK):
        token = start + lane
        there = token < length
        price = tl.zeros([CHUNK], tl.int32)
        if cost is not None:
            price = tl.load(cost + image * length + token, mask=there, other=0)
        dealt = there
        if MERGEABLE:
            dealt = there & (price == 0)
        flag = dealt.to(tl.int32)
        place = done + tl.cumsum(flag, 0) - flag
        even = place % 2 == 0
        at = image * givers + place // 2
        tl.store(first + at, token.to(tl.int64), mask=dealt & even)
        tl.store(first_cost + at, price.to(tl.int64), mask=dealt & even)
        at = image * takers + place // 2
        tl.store(second + at, token.to(tl.int64), mask=dealt & (place % 2 == 1))
        tl.store(second_cost + at, price.to(tl.int64), mask=dealt & (place % 2 == 1))
        tl.store(member + image * length + token, dealt & (place % 2 == 1), mask=there)
        tl.store(gone + image * length + token, lane < 0, mask=there)
        done += tl.sum(flag, 0)


@triton.jit
def _pick(
    best, choice, first, second, first_cost, source, target, gone, givers, takers, length, merges,
    BLOCK: tl.constexpr, WALK: tl.constexpr,
):  # fmt: skip
    """Place a block of group a: the free ones by score, then S from its least important member on."""
    blocks = tl.cdiv(givers, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    best += image * givers
    first_cost += image * givers
    there = place < givers
    mine = _ordered(_rank_value(best, first_cost, place, givers))
    number = tl.zeros([BLOCK], tl.int32)
    for start in range(0, givers, WALK):
        rival = start + tl.arange(0, WALK)
        other = _ordered(_rank_value(best, first_cost, rival, givers))
        number += _ahead(other, rival, mine, place, givers)
    wins = there & (number < merges)
    token = tl.load(first + image * givers + place, mask=there, other=0)
    partner = tl.load(choice + image * givers + place, mask=there, other=0)
    tl.store(source + image * merges + number, token, mask=wins)
    partner = tl.load(second + image * takers + partner, mask=wins, other=0)
    tl.store(target + image * merges + number, partner, mask=wins)
    tl.store(gone + image * length + token, wins, mask=wins)


@triton.jit
def _rank_value(best, first_cost, place, givers):
    price = tl.load(first_cost + place, mask=place < givers, other=0)
    return tl.where(price == 0, tl.load(best + place, mask=place < givers, other=0.0), -1.0 - price.to(tl.float32))


@triton.jit
def _keep(gone, kept, length, count, CHUNK: tl.constexpr):
    """Write one picture's tokens that stay, ascending."""
    image = tl.program_id(0).to(tl.int64)
    done = 0
    for start in range(0, length, CHUNK):
        token = start + tl.arange(0, CHUNK)
        stays = (token < length) & (tl.load(gone + image * length + token, mask=token < length, other=1) == 0)
        flag = stays.to(tl.int32)
        place = done + tl.cumsum(flag, 0) - flag
        tl.store(kept + image * count + place, token.to(tl.int64), mask=stays)
        done += tl.sum(flag, 0)
