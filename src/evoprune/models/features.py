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
        return (pick(state, args[0]), *args[1:])

    stack.callback(family.projector.register_forward_pre_hook(before_projector).remove)


def pick(state: TowerState, hidden: Tensor) -> Tensor:
    """Return the hidden states that the feature stage keeps; all of them where the plan has none.

    `hidden` lies as the tower's own (`Family.form`), but with only those prefix tokens that the language model sees.
    """
    pruner, run, form = state.plan.feature, state.run, state.form
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


def _pick(state: TowerState, run: Run, number: int, units: Tensor) -> Tensor:
    group, pruner = run.groups[number], state.plan.feature
    if pruner is None or group.budget.selected == group.budget.features:
        return units
    with torch.no_grad():
        view = FeatureView(features=unit_means(units, state.form.unit), importance=group.importance)
        group.chosen = pruner.select(view, group.budget.selected)
    return units.gather(1, group.chosen[..., None].expand(-1, -1, units.shape[2]))
