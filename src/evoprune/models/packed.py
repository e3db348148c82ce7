"""Packed towers: which rows of the packed sequence are left behind each merge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .state import Run


@dataclass
class Feature:
    """Rows (U, C) of one merger, behind one another as the tower orders units, and what had merged by then."""

    rows: Tensor
    lefts: list[int]
    merged: list[int]
    sizes: list[Tensor | None]


@dataclass
class Packing:
    """State of one run of a packed tower (`run.stash`).

    Attributes
    ----------
    places
        For each group the units that are left, int64 (G, T), brought up to date by `rows`.
    patches
        int64 (P,), for each patch that is left its row as it entered the blocks.
    kwargs
        Arguments of a block for the patches that are left, by name.
    features
        What the mergers gave, the main one last.
    """

    places: list[Tensor] = field(default_factory=list)
    merged: list[int] = field(default_factory=list)
    patches: Tensor | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    features: list[Feature] = field(default_factory=list)


def packing(run: Run) -> Packing:
    """Return the run's own state, new at first."""
    if not isinstance(run.stash, Packing):
        run.stash = Packing()
    return run.stash


def rows_left(run: Run, unit: int) -> Tensor:
    """Return int64 (P,): for each patch that is left the row in which it entered the blocks."""
    state = packing(run)
    merged = [len(group.matchings) for group in run.groups]
    if state.patches is not None and state.merged == merged:
        return state.patches
    if not state.places:
        state.places = [ops.initial_sources(len(g.items), g.budget.entering, g.device) for g in run.groups]
        state.merged = [0] * len(run.groups)
    for i, group in enumerate(run.groups):
        for matching in group.matchings[state.merged[i] :]:
            state.places[i] = state.places[i].gather(1, ops.survivors(matching, group.order))
    state.merged, state.kwargs = merged, {}
    items: list[Tensor] = run.by_item([list(places) for places in state.places])
    offset, units = 0, []
    for places, budget in zip(items, run.budgets, strict=True):
        units.append(places + offset)
        offset += budget.entering
    rows = torch.cat(units)[:, None] * unit + torch.arange(unit, device=units[0].device)
    state.patches = rows.flatten()
    return state.patches
