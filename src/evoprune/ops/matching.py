"""Scores and bipartite matching: which pairs of tokens merge."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import unknown
from . import kernels
from .density import check_neighbors, cosines, cosines_between, distinctiveness
from .indexing import rows
from .partition import PARTITIONS, Groups, Partition, membership, protected_count, split

Similarity = Literal["cosine", "sigmoid", "softmax"]
SIMILARITIES = ("cosine", "sigmoid", "softmax")


class Matching(NamedTuple):
    """Which tokens merge into which.

    Attributes
    ----------
    source, target
        (B, r) int64: token ``source[p]`` merges into token ``target[p]``; pairs come by descending score.
        Sources are distinct, targets may repeat, no token is both.
    kept
        (B, T - r) int64: all tokens but the sources, ascending.
    second
        (B, T) bool or None: True for tokens of group b. Only ``order="tome"`` needs it.
    """

    source: Tensor
    target: Tensor
    kept: Tensor
    second: Tensor | None = None


@torch.no_grad()
def match(
    tokens: Tensor,
    importance: Tensor | None,
    merges: int,
    *,
    critical_ratio: float = 0.25,
    neighbors: int = 5,
    bandwidth: float | None = None,
    diversity: float = 1.0,
    similarity: Similarity = "cosine",
    partition: Partition = "mergeable",
    protected: Tensor | None = None,
) -> Matching:
    """Choose the `merges` pairs (a token of group a into one of group b) of largest score, for every image.

    Score_ij = cos(x_i, x_j) exp(-diversity (d_i + d_j)), where d is `distinctiveness`. The
    ``max(0, min(floor(critical_ratio * n), n - 2 * merges))`` most important of an image's n tokens are set
    S; they take no part while enough others exist, and where too few exist the least important give way
    first.

    Parameters
    ----------
    tokens
        (B, T, C) features to compare, any floating dtype; scores are float32.
    importance
        (B, T), larger is more important; None protects nothing.
    merges
        r, at most half of the tokens (of each image's unpadded ones: the caller's contract).
    critical_ratio
        Share of the tokens in S, 0 to 1, read as the decimal number that Python prints for it.
    neighbors, bandwidth
        K and tau of `distinctiveness`.
    diversity
        lambda_d >= 0; 0 leaves the distinctiveness out and does not compute it.
    similarity
        ``"cosine"``, ``"sigmoid"`` = 1 / (1 + exp(-cos)), or ``"softmax"`` of the cosines of each a over all
        b outside S.
    partition
        ``"index"``: even ranks are group a, odd ranks group b. ``"mergeable"``: the same, counting only
        tokens outside S, which makes r merges among them always possible; tokens of S are then in neither
        group and stay.
    protected
        (B, T) bool, True for tokens that do not exist (padding): in no group, no neighbours, not counted in
        n; they stay.

    Returns
    -------
    Matching
        Exactly r pairs an image. Equal scores go to the lower index. In ``Matching.second`` whatever
        is in no group counts as a.

    Raises
    ------
    ValueError
        Shapes that do not fit, `merges` outside 0..T // 2, or a parameter outside its range.

    Notes
    -----
    EvoPrune (arXiv 2603.03681), section 3.3. The printed weight of -inf for protected pairs is multiplied
    with a similarity that may be negative or 0; here protection is an order: pair score = Score_ij - cost(i)
    - cost(j) with cost 0 outside S and 8 (1 + rank from the least important member of S) inside. Scores lie
    in [-1, 1] and costs are at least 8 apart, so costs decide first: every a faces the b's of least cost, and
    the a's are ranked by cost, then score.
    """
    _check(tokens, importance, merges, critical_ratio, diversity, similarity, partition, protected)
    check_neighbors(neighbors, bandwidth)
    batch, length, _ = tokens.shape
    device = tokens.device
    if merges == 0:
        nothing = torch.empty((batch, 0), dtype=torch.int64, device=device)
        return Matching(nothing, nothing, torch.arange(length, device=device).expand(batch, length))
    if protected is None and kernels.usable(tokens, importance):
        from .kernels.pairs import best_pairs

        size = 0 if importance is None else protected_count(length, merges, critical_ratio)
        found = best_pairs(
            tokens, importance, merges, size, neighbors=neighbors, bandwidth=bandwidth, diversity=diversity,
            similarity=similarity, partition=partition,
        )  # fmt: skip
        if found is not None:
            return Matching(*found)
    with torch.autocast(device.type, enabled=False):
        groups = split(importance, merges, critical_ratio, partition, protected, batch, length, device)
        score = _scores(tokens, groups, neighbors, bandwidth, diversity, similarity, protected)
        best, choice = _first_maximum(score)
        # Free tokens by score, then S from its least important member on, then padding: all exact in float32.
        rank = torch.where(groups.first_cost == 0, best, -1.0 - groups.first_cost)
        winners = torch.sort(rank, dim=-1, descending=True, stable=True).indices[:, :merges]
    source = groups.first.gather(1, winners)
    target = groups.second.gather(1, choice.gather(1, winners))
    return Matching(source, target, _others(source, length), membership(groups, length))


def _check(
    tokens: Tensor,
    importance: Tensor | None,
    merges: int,
    critical_ratio: float,
    diversity: float,
    similarity: str,
    partition: str,
    protected: Tensor | None,
) -> None:
    if tokens.dim() != 3:
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}: give (B, T, C)")
    for name, tensor in (("importance", importance), ("protected", protected)):
        if tensor is not None and tensor.shape != tokens.shape[:2]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: give {tuple(tokens.shape[:2])}, one value a token"
            )
    if not 0 <= merges <= tokens.shape[1] // 2:
        raise ValueError(
            f"merges={merges} is outside 0..{tokens.shape[1] // 2}: one merge removes at most half of "
            f"{tokens.shape[1]} tokens"
        )
    if not 0.0 <= critical_ratio <= 1.0:
        raise ValueError(f"critical_ratio={critical_ratio} is outside 0..1: give the share of tokens to protect")
    if not 0.0 <= diversity < float("inf"):
        raise ValueError(f"diversity={diversity} is not a number of at least 0: give 0 to leave distinctiveness out")
    if similarity not in SIMILARITIES:
        raise ValueError(unknown("similarity", similarity, SIMILARITIES))
    if partition not in PARTITIONS:
        raise ValueError(unknown("partition", partition, PARTITIONS))


def _scores(
    tokens: Tensor,
    groups: Groups,
    neighbors: int,
    bandwidth: float | None,
    diversity: float,
    similarity: str,
    protected: Tensor | None,
) -> Tensor:
    """Return the scores (B, na, nb), -inf for every b that is dearer than the cheapest one."""
    first, second = groups.first, groups.second
    barred = (groups.second_cost > groups.second_cost.amin(-1, keepdim=True)).unsqueeze(1)
    if diversity == 0:
        halves = (slice(0, None, 2), slice(1, None, 2)) if groups.parity else (first, second)
        score = _similarity(cosines_between(tokens, *halves), similarity, barred)
    else:
        cosine = cosines(tokens)
        score = rows(cosine, first).gather(2, second.unsqueeze(1).expand(-1, first.shape[1], -1))
        score = _similarity(score, similarity, barred)
        distinct = distinctiveness(cosine, neighbors=neighbors, bandwidth=bandwidth, protected=protected)
        weight = torch.exp(-diversity * distinct)
        score.mul_(weight.gather(1, first).unsqueeze(2)).mul_(weight.gather(1, second).unsqueeze(1))
    return score.masked_fill_(barred, float("-inf"))


def _similarity(cosine: Tensor, similarity: str, barred: Tensor) -> Tensor:
    if similarity == "sigmoid":
        return cosine.sigmoid_()
    if similarity == "softmax":
        return cosine.masked_fill_(barred, float("-inf")).softmax(-1)
    return cosine


def _first_maximum(score: Tensor) -> tuple[Tensor, Tensor]:
    """Return maximum and index of its first occurrence over the last dimension, the same on every device."""
    best = score.amax(-1)
    places = torch.arange(score.shape[-1], device=score.device)
    # NaN equals nothing: without the clamp, a broken input would become an index out of range.
    where = torch.where(score == best.unsqueeze(-1), places, score.shape[-1] - 1)
    return best, where.amin(-1)


def _others(source: Tensor, length: int) -> Tensor:
    index = torch.arange(length, device=source.device).expand(source.shape[0], length)
    pushed = index.scatter(1, source, length)
    return torch.sort(pushed, dim=-1).values[:, : length - source.shape[1]]
