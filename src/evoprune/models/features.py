"""The feature stage: units are picked between the encoder and the projector, which gets cheaper too."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import FeatureView
from .base import Family
from .forms import unit_means
from .state import Run, TowerState


def install_features(family: Family, state: TowerState, stack: ExitStack) -> None:
    """Pick features in a pre-hook of the projector, if the plan has a pruner of this stage.

    Families whose projector does not take plain patch features say `picks_itself`, and call `pick`.
    """
    if state.plan.feature is None or family.picks_itself:
        return

    def before_projector(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        runs = state.runs.get(state.modality, [])
        if len(runs) < 2:
            return (pick(state, args[0]), *args[1:])
        parts = args[0].split([run.images for run in runs])  # of the tower's chunks
        return (torch.cat([pick(state, *one) for one in zip(parts, runs, strict=True)]), *args[1:])

    stack.callback(family.projector.register_forward_pre_hook(before_projector).remove)


def pick(state: TowerState, hidden: Tensor, run: Run | None = None) -> Tensor:
    """Return the hidden states that the feature stage keeps; all of them where the plan has none.

    `hidden` lies as the tower's own (`Family.form`), but with only those prefix tokens that the language model sees;
    it left the tower in `run`, by default the last one.
    """
    pruner, form = state.plan.feature, state.form
    run = state.run if run is None else run
    if pruner is None or not any(group.budget.selected < group.budget.features for group in run.groups):
        return hidden
    run.settle(form)
    prefix, form.prefix = form.prefix, state.plan.family.kept_prefix
    try:
        parts = form.split(hidden, run)
        picked = [_pick(state, run, i, units) for i, units in enumerate(parts)]
        return form.join(hidden, picked, run)
    finally:
        form.prefix = prefix


def install_leaving(state: TowerState, stack: ExitStack) -> None:
    """Let pruned hidden states leave the tower as the projector is to have them (`leave`), for each of its chunks."""

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


def _pick(state: TowerState, run: Run, number: int, units: Tensor) -> Tensor:
    group, pruner = run.groups[number], state.plan.feature
    if pruner is None or group.budget.selected == group.budget.features:
        return units
    with torch.no_grad():
        view = FeatureView(features=unit_means(units, state.form.unit), importance=group.importance)
        group.chosen = pruner.select(view, group.budget.selected)
    return units.gather(1, group.chosen[..., None].expand(-1, -1, units.shape[2]))
