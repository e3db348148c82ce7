"""The search for a recipe: for each tolerance what the prompts would lose, and the tolerance that meets the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..recipes import entering, leaving

Counts = Callable[[float], np.ndarray]  # alpha -> (units, layers), tokens of each block that leave each layer
TOLERANCE = 0.01  # of the official search
FINE = 2.0**-10  # of ours


@dataclass(frozen=True)
class Found:
    """What a tolerance gives with a budget.

    Attributes
    ----------
    alpha
        The tolerance.
    reached
        Whether the budget was met before some layer; all later ones then drop nothing.
    left
        (units, layers), tokens that leave each layer.
    removed
        Share of the FLOPs that this takes away, over all units.
    """

    alpha: float
    reached: bool
    left: np.ndarray
    removed: float


@dataclass(frozen=True)
class Budget:
    """Blocks of `tokens` (units,) in a language model of a width, an MLP and a depth; all costs in multiply-adds."""

    tokens: np.ndarray
    width: int
    mlp: int
    layers: int

    @property
    def origin(self) -> float:
        """Mean cost of a block without pruning."""
        whole = entering(self.tokens, self.width) + leaving(self.tokens, self.width, self.mlp)
        return float(self.layers * whole.mean())

    def stopped(self, alpha: float, left: np.ndarray, reduce: float) -> Found:
        """Let nothing go any more from the layer on before which the counts would meet the budget to the end.

        What each layer drops does not depend on where it stops, so that one run gives it for every budget.
        """
        limit, spent, counts = (1.0 - reduce) * self.origin, 0.0, self.tokens
        for layer in range(self.layers):
            first, rest = entering(counts, self.width), leaving(counts, self.width, self.mlp)
            forecast = spent + (first + rest).mean() * (self.layers - layer)
            if forecast <= limit:
                held = np.concatenate((left[:, :layer], np.repeat(counts[:, None], self.layers - layer, 1)), axis=1)
                return Found(alpha, True, held, 1.0 - forecast / self.origin)
            counts = left[:, layer]
            spent += float((first + leaving(counts, self.width, self.mlp)).mean())
        return Found(alpha, False, left, 1.0 - spent / self.origin)


def bisect(counts: Counts, budget: Budget, reduce: float, tolerance: float = TOLERANCE) -> list[Found]:
    """Return what the official search visits, in its order, until the interval is no wider than `tolerance`.

    The last one need not have reached the budget.
    """
    low, high, visited = 0.0, 1.0, []
    while high - low > tolerance:
        middle = (low + high) / 2
        visited.append(budget.stopped(middle, counts(middle), reduce))
        low, high = (low, middle) if visited[-1].reached else (middle, high)
    return visited


def nearest(counts: Counts, budget: Budget, reduce: float) -> Found:
    """Return the smallest tolerance found that takes away `reduce`, or 1 if none does.

    A larger one may come as near to the budget, by dropping more in fewer layers; the paper's aim is the smallest.
    """
    low, high, best = 0.0, 1.0, None
    while high - low > FINE:
        middle = (low + high) / 2
        found = budget.stopped(middle, counts(middle), reduce)
        if found.removed >= reduce:  # also by what the last layer drops, which the official search does not look at
            high, best = middle, found
        else:
            low = middle
    return best or budget.stopped(1.0, counts(1.0), reduce)
