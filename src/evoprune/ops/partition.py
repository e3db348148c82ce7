"""Who may merge with whom: the protected set S and the two groups of the bipartite matching."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Partition = Literal["index", "mergeable"]
PARTITIONS = ("index", "mergeable")
NEVER = 1 << 20  # cost of a token that does not exist: above that of any token that does


class Groups(NamedTuple):
    """Both groups as indices (B, na), (B, nb), ascending, and the cost of merging each (0: free).

    `parity` tells that they are all even and all odd places.
    """

    first: Tensor
    second: Tensor
    first_cost: Tensor
    second_cost: Tensor
    parity: bool = False


def protected_count(tokens: int, merges: int, critical_ratio: float) -> int:
    """Return N_protect = max(0, min(floor(critical_ratio * tokens), tokens - 2 * merges)), the size of S."""
    numerator, denominator = _ratio(critical_ratio)
    return max(0, min(tokens * numerator // denominator, tokens - 2 * merges))


@torch.compiler.assume_constant_result
def _ratio(critical_ratio: float) -> tuple[int, int]:
    # 0.29 of 100 tokens are 29, though 0.29 * 100 is 28.999999999999996 in floating point.
    # The denominator is bounded so that products with token counts stay in int64.
    share = Fraction(repr(float(critical_ratio))).limit_denominator(10**9)
    return share.numerator, share.denominator


def split(
    importance: Tensor | None,
    merges: int,
    critical_ratio: float,
    partition: str,
    protected: Tensor | None,
    batch: int,
    length: int,
    device: torch.device,
) -> Groups:
    """Find S, list the groups' members by index, and deal them out: even places to group a, odd ones to b."""
    index = torch.arange(length, device=device).expand(batch, length)
    if importance is None or (protected is None and protected_count(length, merges, critical_ratio) == 0):
        cost = torch.zeros((batch, length), dtype=torch.int64, device=device)
        if protected is None:
            return Groups(index[:, 0::2], index[:, 1::2], cost[:, 0::2], cost[:, 1::2], True)
    else:
        cost = _costs(importance, merges, critical_ratio, protected, index)
    if protected is not None:
        cost = cost.masked_fill(protected, NEVER)
    if partition == "mergeable":
        outside = cost > 0
    elif protected is not None:
        outside = protected
    else:
        return Groups(index[:, 0::2], index[:, 1::2], cost[:, 0::2], cost[:, 1::2], True)
    # Members to the front, in order; without padding their number is known, with it the rest of the list
    # never merges.
    members = torch.sort(torch.where(outside, index + length, index), dim=-1).values
    members = torch.where(members < length, members, members - length)
    if protected is None:
        members = members[:, : length - protected_count(length, merges, critical_ratio)]
    ordered = cost.gather(1, members)
    return Groups(members[:, 0::2], members[:, 1::2], ordered[:, 0::2], ordered[:, 1::2])


def _costs(importance: Tensor, merges: int, critical_ratio: float, protected: Tensor | None, index: Tensor) -> Tensor:
    """Return 0 for tokens outside S, inside S 1 for the least important, 2 for the next, ... (B, T) int64."""
    values = importance.float()
    if protected is None:
        size: int | Tensor = protected_count(index.shape[1], merges, critical_ratio)
    else:
        values = values.masked_fill(protected, float("-inf"))
        numerator, denominator = _ratio(critical_ratio)
        count = (~protected).sum(-1, keepdim=True)
        limit = torch.div(count * numerator, denominator, rounding_mode="floor")
        size = torch.minimum(limit, count - 2 * merges).clamp(min=0)
    ranked = torch.sort(values, dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(ranked).scatter(1, ranked, (size - index).clamp(min=0))


def membership(groups: Groups, length: int) -> Tensor:
    """Return (B, T) bool: True for the tokens of group b that exist."""
    empty = torch.zeros((groups.second.shape[0], length), dtype=torch.bool, device=groups.second.device)
    return empty.scatter(1, groups.second, groups.second_cost < NEVER)
