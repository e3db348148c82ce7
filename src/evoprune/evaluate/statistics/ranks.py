"""Ranks that the questions can tell apart: a set for each arm, and one number only where one is left."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from math import log2

import numpy as np

from . import LEVEL, Pooled


def ranks(pooled: Pooled, names: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return the best and the worst rank that each arm may have among all.

    Best is one more than the number of arms that are significantly better, worst the number of arms less those that are
    significantly worse. All pairs are judged by simultaneous paired intervals: with 95 % probability no two arms are
    told apart wrongly, whatever the number of pairs (Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies
    2024). scipy has no such intervals; the draws that they are made of are its bootstrap's, the same for all arms.

    Parameters
    ----------
    pooled
        Has a column of scores for each of `names`.
    names
        The arms of one budget.
    """
    better = [[1, len(names)] for _ in names]
    for (i, j), sign in zip(combinations(range(len(names)), 2), _signs(pooled, names), strict=True):
        if sign:
            ahead, behind = (i, j) if sign > 0 else (j, i)
            better[behind][0] += 1
            better[ahead][1] -= 1
    return [(best, worst) for best, worst in better]


def _signs(pooled: Pooled, names: Sequence[Hashable]) -> np.ndarray:
    """Return 1, -1 or 0 (pairs,): the first of the pair is significantly better, worse, or neither."""
    pairs = np.array(list(combinations(range(len(names)), 2)), dtype=np.int64).reshape(-1, 2)
    if pooled.groups < 2 or not len(pairs):
        return np.zeros(len(pairs), dtype=np.int64)
    first, second = pairs.T
    values = np.array([pooled.share(name).value for name in names])  # type: ignore[union-attr]
    draws = np.stack([pooled.drawn(name) for name in names]) / pooled.drawn(None)
    gaps = values[first] - values[second]
    spread = draws[first] - draws[second]
    error = spread.std(1, ddof=1)
    known = error > 1e-12
    far = np.zeros(spread.shape[1])
    if known.any():  # the largest error of any pair, in units of its own, in each resample
        far = (np.abs(spread[known] - gaps[known, None]) / error[known, None]).max(0)
    apart = np.abs(gaps) > np.quantile(far, LEVEL) * error
    sums = np.stack([pooled.sums[name] for name in names])
    differ = (np.abs(sums[first] - sums[second]) > 1e-9).sum(1)
    # Resamples of a handful of groups are too much alike. No test by flipped signs calls p < 2^(1 - k) of k groups.
    enough = differ >= 1 + log2(len(pairs) / (1 - LEVEL))
    return np.where(apart & enough, np.sign(gaps), 0).astype(np.int64)


def shown(rank: Sequence[int] | None) -> str:
    """Return ``"3"`` where only that rank is left, else ``"1-4"``; a dash where there is none."""
    if rank is None:
        return "–"
    best, worst = rank
    return str(best) if best == worst else f"{best}-{worst}"
