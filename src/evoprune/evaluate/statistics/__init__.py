"""Intervals and tests on scores of the same questions; questions about one picture stand or fall together.

What is resampled, or flipped in sign, are whole groups of questions. The 95 % intervals are percentiles of scipy's
bootstrap: its draws are the same for all quantities, so that everything is paired with everything, and percentiles keep
their meaning when two arms swap sides (differences negate, ratios invert), which BCa's correction does not promise; BCa
also has no value where resamples do not differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .resampling import EXACT, checked, grouped, resampled, scipy_stats

LEVEL = 0.95
RESAMPLES = 20_000  # percentiles of these err by 2 % of a standard error: 0.0002 where an interval is 0.04 wide
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
        self._resamples, self._seed = resamples, seed

    def total(self, name: Hashable) -> float:
        """Return the sum of a column."""
        return float(np.round(self.sums[name].sum(), EXACT))

    def drawn(self, name: Hashable) -> np.ndarray:
        """Return the sums (resamples,) of a column in the resamples."""
        return self._all_drawn[name]

    @cached_property
    def _all_drawn(self) -> dict[Hashable, np.ndarray]:
        drawn = resampled(np.stack(list(self.sums.values()), axis=1), self._resamples, self._seed)
        return dict(zip(self.sums, drawn, strict=True))

    def share(self, part: Hashable, whole: Hashable = None) -> Interval | None:
        """Return the sum of `part` over that of `whole` (the number of questions); None where that is 0.

        Where all groups are alike, resamples cannot differ, and the bounds admit groups unlike those seen (`_alike`).
        """
        if self.total(whole) == 0:
            return None
        value = self.total(part) / self.total(whole)
        sure = _alike(value, self.sums[part], self.sums[whole], (0, 1))
        if sure is not None:
            return Interval(value, sure * value, 1 - sure * (1 - value))
        return _percentiles(value, self.drawn(part), self.drawn(whole))

    def difference(self, one: Hashable, other: Hashable, *, agree: Hashable = None) -> Interval | None:
        """Return the share of `one` minus that of `other`; None where there are no questions.

        Where the difference is the same in all groups, resamples cannot differ, and the bounds admit groups unlike
        those seen (`_alike`): two runs that are equal in all of many groups differ by little. There is no spread in
        what is compared with itself, the same column or the same run.

        Parameters
        ----------
        agree
            A column of 1 where `one` and `other` gave the same answer. Where all answers and all scores are the same,
            they are the same run. By default they are two, whatever they answered.
        """
        if self.total(None) == 0:
            return None
        if self._itself(one, other, agree):
            return Interval(0.0, 0.0, 0.0)
        value = (self.total(one) - self.total(other)) / self.total(None)
        sure = _alike(value, self.sums[one] - self.sums[other], self.sums[None], (-1, 0, 1))
        if sure is not None:
            low, high = sure * value - (1 - sure), sure * value + (1 - sure)
            return Interval(value, max(-1.0, low), min(1.0, high))
        return _percentiles(value, self.drawn(one) - self.drawn(other), self.drawn(None))

    def ratio(self, one: Hashable, other: Hashable, *, agree: Hashable = None) -> Interval | None:
        """Return the sum of `one` over that of `other`; what is said of `difference` holds here too.

        None where the sum of `other` is 0, or so often 0 in resamples that the interval has no end, or where one group
        is all.
        """
        if self.total(other) == 0:
            return None
        if self._itself(one, other, agree):
            return Interval(1.0, 1.0, 1.0)
        if self.groups < 2:
            return None
        value = self.total(one) / self.total(other)
        sure = _alike(value, self.sums[one], self.sums[other], (0, 1), self.groups)
        if sure is not None:
            share = sure * self.total(other) / self.total(None)
            return Interval(value, value * share / (share + 1 - sure), value + (1 - sure) / share) if share else None
        above, below = self.drawn(one), self.drawn(other)
        above = np.where(below > 0, above, np.inf)
        found = _percentiles(value, above, np.where(below > 0, below, 1.0))
        return found if np.isfinite(found.high) else None

    def _itself(self, one: Hashable, other: Hashable, agree: Hashable) -> bool:
        if one == other:
            return True
        same = agree is not None and self.total(agree) == self.total(None)
        return same and np.array_equal(self.sums[one], self.sums[other])


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


def _alike(
    value: float, part: np.ndarray, whole: np.ndarray, plain: Sequence[float], groups: int | None = None
) -> float | None:
    """Return the least share of all groups that is like those seen, where `part` is `value` times `whole` in each.

    It is the lower end of Clopper and Pearson's exact interval: k groups were drawn, and all were alike. The rest may
    be anything. Where `value` is none of the `plain` ones (all right, all wrong, no difference), one group tells only
    what the others have to be like. None where the groups are not alike.

    Parameters
    ----------
    part, whole
        (groups,) sums.
    groups
        How many groups tell of a plain value; those that have some of the `whole` by default.
    """
    if np.abs(part - value * whole).max() > 10.0**-EXACT:
        return None
    known = int((whole > 0).sum())
    if value in plain:
        return _surely(known if groups is None else groups)
    return _surely(known - 1)


def _surely(groups: int) -> float:
    """Return the lower bound of a share, all of whose `groups` trials succeeded."""
    if not groups:
        return 0.0
    return float(scipy_stats().binomtest(groups, groups).proportion_ci(LEVEL, method="exact").low)
