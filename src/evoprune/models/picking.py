"""What the feature stage does with units: shows them to the method, and lets go on what it picks or combines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.indexing import rows
from ..pruners import FeaturePruner, FeatureView
from .forms import Form, Packed, unit_means
from .groups import Group
from .relevance import relevance
from .state import Run, TowerState


class Part(NamedTuple):
    """One group of a run at the feature stage: its units (G, N, U), and what entered the projector if that is known."""

    run: Run
    group: Group
    units: Tensor
    entered: Tensor | None = None


def feature_form(state: TowerState, unit_side: int | None = None) -> Form:
    """Return how hidden states lie where the feature stage is, with the prefix that the language model sees."""
    form = copy.copy(state.form)
    form.prefix = state.plan.family.kept_prefix
    form.unit_side = form.unit_side if unit_side is None else unit_side
    return form


def by_run(values: Tensor, runs: Sequence[Run]) -> Sequence[Tensor]:
    """Return the rows of `values` that belong to each of `runs`."""
    return [values] if len(runs) == 1 else values.split([run.images for run in runs])


def picked(state: TowerState, hidden: Tensor, form: Form, runs: Sequence[Run]) -> Tensor:
    """Return what the feature stage keeps of hidden states that lie in `form` and left the tower in `runs`."""
    pruner = state.plan.feature
    if pruner is None or not any(one.budget.selected < one.budget.features for run in runs for one in run.groups):
        return hidden
    values, parts = by_run(hidden, runs), []
    for run, value in zip(runs, values, strict=True):
        run.settle(state.form)
        _agree(run, state)
        entered = [None] * len(run.groups) if run.entering is None else form.split(run.entering, run)
        units = form.split(value, run)
        parts.append([Part(run, *one) for one in zip(run.groups, units, entered, strict=True)])
    if "relevance" in pruner.needs and len(runs) > 1:  # a picture's tiles may lie in several runs: one group in each
        left = [[one] for one in _pick(pruner, [one for (one,) in parts], form, state)]
    else:
        left = [[_pick(pruner, [part], form, state)[0] for part in each] for each in parts]
    for run in runs:
        run.cls = run.entering = None
    return _joined([form.join(value, one, run) for value, one, run in zip(values, left, runs, strict=True)])


def _agree(run: Run, state: TowerState) -> None:
    """Let all ranks have the same last digits: sums of what merged may come in another order on each GPU."""
    if state.over_ranks is None:
        return
    for group in run.groups:
        group.importance = None if group.importance is None else state.over_ranks(group.importance)
        group.keys = None if group.keys is None else state.over_ranks(group.keys)


def _pick(pruner: FeaturePruner, parts: Sequence[Part], form: Form, state: TowerState) -> Sequence[Tensor]:
    """Return what leaves of each of `parts`, groups of one grid that are shown in one view."""
    groups = [part.group for part in parts]
    if groups[0].budget.selected == groups[0].budget.features:
        return [part.units for part in parts]
    orders = [group.raster() for group in groups]
    parts = [_ordered(part, order) for part, order in zip(parts, orders, strict=True)]
    units = _joined([part.units for part in parts])
    with torch.no_grad():
        view = _view(pruner, parts, orders, unit_means(units, form.unit), state)
        chosen = pruner.select(view, groups[0].budget.selected)
        held = pruner.standing(view, chosen)
    tokens = pruner.combine(units, view, chosen)
    begin = 0
    for group, order in zip(groups, orders, strict=True):
        own = slice(begin, begin := begin + len(group.items))
        group.picked(chosen[own], None if held is None else held[own], order)
        group.keys = None
        if isinstance(form, Packed):  # features of earlier layers are to follow
            group.combine = partial(_combined, pruner, view, chosen, order)
    return tokens.split([len(group.items) for group in groups])


def _combined(pruner: FeaturePruner, view: FeatureView, chosen: Tensor, order: Tensor | None, units: Tensor) -> Tensor:
    """Return what leaves of other values (G, T, U) of the units of a group."""
    return pruner.combine(units if order is None else rows(units, order), view, chosen)


def _ordered(part: Part, order: Tensor | None) -> Part:
    if order is None:
        return part
    entered = None if part.entered is None else rows(part.entered, order)
    return part._replace(units=rows(part.units, order), entered=entered)


def _view(
    pruner: FeaturePruner, parts: Sequence[Part], orders: Sequence[Tensor | None], features: Tensor, state: TowerState
) -> FeatureView:
    groups = [part.group for part in parts]
    scores = [one.importance for one in groups if one.importance is not None]
    keys = [one.keys for one in groups if one.keys is not None]
    cls = [part.run.cls for part in parts if part.run.cls is not None]
    wanted = parts if "relevance" in pruner.needs else []
    asked = [relevance(state, part.group, part.run, part.units, part.entered) for part in wanted]
    raster = [order for order in orders if order is not None]
    if raster:
        scores = [score.gather(1, order) for score, order in zip(scores, raster, strict=False)]
        keys = [rows(key, order) for key, order in zip(keys, raster, strict=False)]
    relevances, owners = [one for one, _ in asked], [one for _, one in asked]
    shown = (scores, keys, cls, relevances, owners)
    found = (_joined(values).to(features.device) if values else None for values in shown)
    importance, key, state_of_cls, relevant, owner = found
    return FeatureView(
        features=features, importance=importance, keys=key, cls=state_of_cls, relevance=relevant, owners=owner,
        grid=groups[0].grid,
    )  # fmt: skip


def _joined(values: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(values)) if len(values) > 1 else values[0]
