"""The feature stage: units are picked between the encoder and the projector, which gets cheaper too.

A method that needs ``"projected"`` features picks behind the projector: then nothing is picked before it, and every
unit goes through, without the family's own poolings.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import FeaturePruner, FeatureView
from .base import Family
from .forms import Form, Packed, unit_means
from .groups import Group
from .state import Run, TowerState


def install_features(family: Family, state: TowerState, stack: ExitStack) -> None:
    """Pick features in a hook before or behind the projector, if the plan has a pruner of this stage.

    Families whose projector does not take plain patch features say `picks_itself`, and call `pick`; those whose tower
    is packed have their projector in it, and call `pick_projected` too.
    """

    def by_run(values: Tensor, picked: Any) -> Tensor:
        runs = state.runs.get(state.modality, [])
        if len(runs) < 2:
            return picked(state, values)
        parts = values.split([run.images for run in runs])  # of the tower's chunks
        return torch.cat([picked(state, *one) for one in zip(parts, runs, strict=True)])

    def before_projector(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (by_run(args[0], pick), *args[1:])

    def after_projector(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return by_run(output, pick_projected)

    if state.plan.feature is None or isinstance(state.form, Packed):
        return
    if wants_projected(state):
        stack.callback(family.projector.register_forward_hook(after_projector).remove)
    elif not family.picks_itself:
        stack.callback(family.projector.register_forward_pre_hook(before_projector).remove)


def wants_projected(state: TowerState) -> bool:
    """Return whether the feature stage picks behind the projector."""
    return state.plan.feature is not None and "projected" in state.plan.feature.needs


def pick(state: TowerState, hidden: Tensor, run: Run | None = None) -> Tensor:
    """Return the hidden states that the feature stage keeps; all of them where the plan has none, or picks later.

    `hidden` lies as the tower's own (`Family.form`), but with only those prefix tokens that the language model sees;
    it left the tower in `run`, by default the last one.
    """
    return hidden if wants_projected(state) else _picked(state, hidden, state.form, run or state.run)


def pick_projected(state: TowerState, output: Tensor, run: Run | None = None) -> Tensor:
    """Return what the feature stage keeps of the projector's output, one token a unit, if it picks there."""
    if not wants_projected(state):
        return output
    form = copy.copy(state.form)
    form.unit_side = 1
    return _picked(state, output, form, run or state.run)


def _picked(state: TowerState, hidden: Tensor, form: Form, run: Run) -> Tensor:
    if not any(group.budget.selected < group.budget.features for group in run.groups):
        return hidden
    run.settle(state.form)
    prefix, form.prefix = form.prefix, state.plan.family.kept_prefix
    try:
        parts = form.split(hidden, run)
        picked = [_pick(state.plan.feature, group, units, form) for group, units in zip(run.groups, parts, strict=True)]
        return form.join(hidden, picked, run)
    finally:
        form.prefix = prefix


def install_leaving(state: TowerState, stack: ExitStack) -> None:
    """Let pruned hidden states leave the tower as the projector is to have them (`leave`), for each of its chunks."""
    if wants_projected(state):
        return  # the projector takes all that is left, as it lies

    def after_tower(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        run = state.run
        if run.pruned and run.stash is None and not isinstance(output, tuple):
            run.stash = True  # chunks have been here one by one when the whole comes
            output.last_hidden_state = leave(state, output.last_hidden_state)

    stack.callback(state.plan.family.tower.register_forward_hook(after_tower).remove)


def leave(state: TowerState, hidden: Tensor) -> Tensor:
    """Return (B, prefix + K * unit, C): what the feature stage keeps of a batched tower's output, unit by unit."""
    form, run = state.form, state.run
    prefix = hidden[:, : form.prefix]
    patches = pick(state, hidden[:, form.prefix :])
    if not run.in_units:
        (units,) = form.arrange([patches], run)
        patches, run.in_units = units.reshape(len(units), -1, hidden.shape[2]), True
    return torch.cat((prefix, patches), dim=1) if form.prefix else patches


def _pick(pruner: FeaturePruner | None, group: Group, units: Tensor, form: Form) -> Tensor:
    if pruner is None or group.budget.selected == group.budget.features:
        return units
    with torch.no_grad():
        view = FeatureView(features=unit_means(units, form.unit), importance=group.importance)
        group.chosen = pruner.select(view, group.budget.selected)
    return units.gather(1, group.chosen[..., None].expand(-1, -1, units.shape[2]))
