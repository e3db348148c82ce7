"""Tests of two arms on the same questions, and the correction for many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .resampling import EXACT, ROOM, checked, grouped, scipy_stats

FLIPS = 9999
FLOOR = 2 / (FLIPS + 1)  # the least p of drawn flips; where all patterns are counted the least is above it


def binary(scores: ArrayLike) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(np.asarray(scores), (0, 1)).all())


def mcnemar(first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Return how many only the `first`, and only the `second`, got right, and McNemar's exact p (two-sided binomial).

    It takes every question for itself: where several are about one picture, `sign_flip` is the test to trust.

    Raises
    ------
    ValueError
        A score (n,) that is neither 0 nor 1.
    """
    one, other = checked(first), checked(second)
    if not (binary(one) and binary(other)):
        raise ValueError("McNemar's test needs answers that are right or wrong: compare soft scores by sign_flip")
    only_one, only_other = int((one > other).sum()), int((other > one).sum())
    if only_one + only_other == 0:
        return 0, 0, 1.0
    return only_one, only_other, float(scipy_stats().binomtest(only_one, only_one + only_other).pvalue)


def sign_flip(
    scores: ArrayLike, reference: ArrayLike, groups: Sequence[Any] | np.ndarray, *, flips: int = FLIPS, seed: int = 0
) -> np.ndarray:
    """Return the two-sided p (arms,) of each arm against the reference: the sign of each group's difference is flipped.

    If an arm is no better and no worse, the difference of a group is as likely as its opposite. Exact where there are
    no more than `flips` patterns of signs; else that many are drawn, the same for all arms.

    Parameters
    ----------
    scores
        (arms, n) of the arms.
    reference
        (n,) of what they are compared with.
    groups
        (n,) labels.
    """
    gaps = checked(scores) - checked(reference)
    where, count = grouped(groups)
    sums = np.stack([np.bincount(where, gap, count) for gap in gaps], axis=1) if len(gaps) else np.zeros((count, 0))
    null, exact = flipped(sums, flips, seed)
    if null is None:
        return np.ones(len(gaps))
    seen = np.round(sums.sum(0), EXACT)
    more = 0 if exact else 1  # what is seen is one of the patterns
    tails = [(null <= seen).sum(0) + more, (null >= seen).sum(0) + more]
    return np.minimum(1.0, 2 * np.minimum(*tails) / (len(null) + more))


def flipped(sums: np.ndarray, flips: int, seed: int = 0) -> tuple[np.ndarray | None, bool]:
    """Return the column sums of `sums` (groups, columns) with signs of rows flipped, and whether in all patterns.

    Returns
    -------
    ndarray or None
        float64 (patterns, columns): all patterns of signs where they are no more than `flips`, else that many drawn
        ones. None where fewer than two rows hold anything: a difference and its opposite are equally likely.
    bool
        Whether they are all.
    """
    sums = sums[np.abs(sums).max(1, initial=0) > 10.0**-EXACT]  # flips of nothing only cost time
    if len(sums) < 2:
        return None, True

    def statistic(signs: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.round(signs @ sums, EXACT)

    found = scipy_stats().permutation_test(
        (np.ones(len(sums)),),  # scipy flips the signs of ones, once for all columns
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        batch=max(1, min(1000, ROOM // len(sums))),
        rng=np.random.default_rng(seed),
    )
    return found.null_distribution, 2 ** len(sums) <= flips


def corrected(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number: the false discovery rate of Benjamini and Hochberg.

    It holds for tests that are independent or positively dependent, as those against one reference on the same
    questions are. The family is what is given: in a summary, all arms of a task against the unpruned model.
    """
    return [float(q) for q in scipy_stats().false_discovery_control(list(p), method="bh")] if len(p) else []
