"""What the statistics draw: whole groups of questions, the same for all that is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

ROOM = 4_000_000  # drawn numbers in memory at once
EXACT = 9  # decimals of sums: keeps ties of soft scores ties, on every machine


def scipy_stats() -> Any:
    """Return scipy.stats; ValueError where it is not installed."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ValueError("statistics need the extra 'eval': pip install 'evoprune[eval]'") from error
    return stats


def checked(scores: ArrayLike) -> np.ndarray:
    """Return `scores` as float64; ValueError where one is no number from 0 to 1."""
    values = np.asarray(scores, dtype=np.float64)
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        raise ValueError(
            f"a score is {values[bad].flat[0]}, but scores are numbers from 0 to 1: "
            "score the answers anew, or scale the metric"
        )
    return values


def grouped(groups: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, int]:
    """Return the number (n,) int of each question's group, and how many groups there are.

    Groups are numbered by their labels, shorter ones first, so that 2 comes before 10 and the order of the questions
    does not matter.
    """
    labels = [str(label) for label in (groups.tolist() if isinstance(groups, np.ndarray) else groups)]
    numbers = {label: i for i, label in enumerate(sorted(set(labels), key=lambda label: (len(label), label)))}
    return np.array([numbers[label] for label in labels], dtype=np.int64), len(numbers)


def resampled(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the sums (columns, resamples) of resampled rows of `sums` (groups, columns).

    scipy draws numbers of groups, once for all columns; how often each was drawn times the sums is one product.
    """
    groups = len(sums)
    if groups < 2:  # nothing to draw from
        return np.repeat(sums.sum(0)[:, None], resamples, axis=1)

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = numbers.reshape(-1, groups)
        places = (rows + groups * np.arange(len(rows))[:, None]).ravel()
        times = np.bincount(places, minlength=len(rows) * groups).reshape(rows.shape)
        return np.round(sums.T @ times.T.astype(np.float64), EXACT)

    found = scipy_stats().bootstrap(
        (np.arange(groups),),
        statistic,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, min(500, ROOM // groups)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return found.bootstrap_distribution
