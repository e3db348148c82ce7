"""A whole matching by kernels: eight launches in place of some seventy."""

from __future__ import annotations

from torch import Tensor

from . import attempt


def best_pairs(
    tokens: Tensor,
    importance: Tensor | None,
    merges: int,
    size: int,
    *,
    neighbors: int,
    bandwidth: float | None,
    diversity: float,
    similarity: str,
    partition: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return the four fields of `evoprune.ops.Matching`, as `evoprune.ops.match` without padding does; None where a
    kernel does not run.

    Parameters
    ----------
    size
        Number of tokens in S, from `evoprune.ops.protected_count`; the rest as in `evoprune.ops.match`.
    """
    from .density import nearest, norms, weights
    from .order import deal, pick
    from .scores import best_partners

    batch, length, _ = tokens.shape
    given = importance if size else None
    dealt = attempt("order", deal, given, (batch, length), size, partition == "mergeable", tokens.device)
    inverse = attempt("density", norms, tokens)
    if dealt is None or inverse is None:
        return None
    weight = None
    if diversity:
        near = attempt("density", nearest, tokens, inverse, min(neighbors, length - 1))
        weight = None if near is None else attempt("density", weights, near, diversity, bandwidth)
        if weight is None:
            return None
    barred = None
    if given is not None and partition == "index":  # tokens of S are in the groups, and every a faces the cheapest b's
        barred = dealt.second_cost > dealt.second_cost.amin(-1, keepdim=True)
    groups = (dealt.first, dealt.second)
    best = attempt("scores", best_partners, tokens, inverse, weight, *groups, barred, similarity)
    found = None if best is None else attempt("order", pick, *best, dealt, merges)
    return None if found is None else (*found, dealt.member)
