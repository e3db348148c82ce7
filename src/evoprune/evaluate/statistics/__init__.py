"""Intervals and tests on scores of the same questions; questions about one picture stand or fall together.

What is resampled, or flipped in sign, are whole groups of questions. The 95 % intervals are percentiles of scipy's
bootstrap: its draws are the same for all quantities, so that everything is paired with everything, and percentiles keep
their meaning when two arms swap sides (differences negate, ratios invert), which BCa's correction does not promise; BCa
also has no value where resamples do not differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .resampling import EXACT, checked, grouped, resampled, scipy_stats

LEVEL = 0.95
RESAMPLES = 4000
RIGHT = 0.5  # a soft score of at least this is a right answer, where only right and wrong are known


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds `low` and `high` of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Pooled:
    """Quantities summed over all questions, and over bootstrap resamples of the groups.

    Parameters
    ----------
    columns
        Name and values (n,) of each quantity: scores, or 0 and 1; what a share is of is a column too.
    groups
        (n,) labels.
    resamples, seed
        Number of resamples, and the generator's seed.

    Attributes
    ----------
    groups
        How many groups there are.
    sums
        Values (groups,) of each column, by group.
    """

    def __init__(
        self,
        columns: Mapping[Hashable, ArrayLike],
        groups: Sequence[Any] | np.ndarray,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ):
        where, self.groups = grouped(groups)
        columns = {**columns, None: np.ones(len(where))}  # the questions, of which most shares are
        self.sums = {name: np.bincount(where, checked(values), self.groups) for name, values in columns.items()}
        drawn = resampled(np.stack(list(self.sums.values()), axis=1), resamples, seed)
        self._drawn = dict(zip(self.sums, drawn, strict=True))

    def total(self, name: Hashable) -> float:
        """Return the sum of a column."""
        return float(np.round(self.sums[name].sum(), EXACT))

    def drawn(self, name: Hashable) -> np.ndarray:
        """Return the sums (resamples,) of a column in the resamples."""
        return self._drawn[name]

    def share(self, part: Hashable, whole: Hashable = None) -> Interval | None:
        """Return the sum of `part` over that of `whole` (the number of questions); None where that is 0.

        Where all is right or all is wrong, resamples cannot differ; the bound is then the exact one of Clopper and
        Pearson over groups. A single group that is neither says nothing: its bounds are 0 and 1.
        """
        if self.total(whole) == 0:
            return None
        value, groups = self.total(part) / self.total(whole), int((self.sums[whole] > 0).sum())
        if value in (0, 1):
            return Interval(value, _surely(groups) if value else 0.0, 1.0 if value else 1 - _surely(groups))
        if groups < 2:
            return Interval(value, 0.0, 1.0)
        return _percentiles(value, self.drawn(part), self.drawn(whole))

    def difference(self, one: Hashable, other: Hashable) -> Interval | None:
        """Return the share of `one` minus that of `other`; None where there are no questions.

        No spread where the two are equal in every group; -1 to 1 where there is one group, and they are not.
        """
        if self.total(None) == 0:
            return None
        value = (self.total(one) - self.total(other)) / self.total(None)
        if np.array_equal(self.sums[one], self.sums[other]):
            return Interval(0.0, 0.0, 0.0)
        if abs(value) == 1:  # every group went the same way: those unseen may go the other
            low = 2 * _surely(self.groups) - 1
            return Interval(value, low, 1.0) if value > 0 else Interval(value, -1.0, -low)
        if self.groups < 2:
            return Interval(value, -1.0, 1.0)
        return _percentiles(value, self.drawn(one) - self.drawn(other), self.drawn(None))

    def ratio(self, one: Hashable, other: Hashable) -> Interval | None:
        """Return the sum of `one` over that of `other`.

        None where that is 0, or so often 0 in resamples that the interval has no end, or where one group is all. Where
        `one` has nothing, the end is the exact bound of its share over that of `other`.
        """
        if self.total(other) == 0:
            return None
        value = self.total(one) / self.total(other)
        if np.array_equal(self.sums[one], self.sums[other]):
            return Interval(1.0, 1.0, 1.0)
        if self.groups < 2:
            return None
        if value == 0:
            return Interval(0.0, 0.0, (1 - _surely(self.groups)) * self.total(None) / self.total(other))
        above, below = self.drawn(one), self.drawn(other)
        above = np.where(below > 0, above, np.inf)
        found = _percentiles(value, above, np.where(below > 0, below, 1.0))
        return found if np.isfinite(found.high) else None


def paired(
    scores: ArrayLike,
    reference: ArrayLike,
    groups: Sequence[Any] | np.ndarray,
    *,
    relative: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Compare two arms on the same questions: the ratio of their accuracies if `relative`, else the difference.

    Parameters
    ----------
    scores, reference
        (n,) how right each answer is, 0 to 1 (a mean over seeds or budgets is allowed).
    groups
        (n,) labels; whole groups are resampled.
    resamples, seed
        Number of bootstrap resamples and the generator's seed.

    Raises
    ------
    ValueError
        There is no such number: no questions, or nothing right to be relative to.
    """
    pooled = Pooled({"scores": scores, "reference": reference}, groups, resamples=resamples, seed=seed)
    found = (pooled.ratio if relative else pooled.difference)("scores", "reference")
    if found is None:
        raise ValueError(
            f"{len(groups)} questions in {pooled.groups} groups, {pooled.total('reference'):g} of them right in the "
            "reference, give no interval: ask more questions, or take the difference"
        )
    return found


def _percentiles(value: float, above: np.ndarray, below: np.ndarray) -> Interval:
    """Return the 95 % percentiles of `above` / `below` (resamples,), of those that are defined."""
    known = below > 0
    with np.errstate(invalid="ignore"):  # between two infinities: no end, which the caller asks for
        low, high = np.quantile(above[known] / below[known], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _surely(groups: int) -> float:
    """Return the lower bound of a share, all of whose `groups` trials succeeded."""
    return float(scipy_stats().binomtest(groups, groups).proportion_ci(LEVEL, method="exact").low)
