"""The feature stage: tokens are picked between the encoder and the projector, which gets cheaper too."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import FeatureView
from .base import Family
from .state import TowerState


def install_features(family: Family, state: TowerState, stack: ExitStack) -> None:
    """Pick features in a pre-hook of the projector, if the plan has a pruner of this stage."""
    pruner, prefix = state.plan.feature, family.kept_prefix
    if pruner is None:
        return

    def before_projector(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden: Tensor = args[0]
        patches = hidden[:, prefix:]
        if patches.shape[1] != state.plan.features:
            raise ValueError(
                f"{patches.shape[1]} features reach the projector where the pruner planned for "
                f"{state.plan.features}: give pictures of the size that the model's processor makes"
            )
        with torch.no_grad():
            view = FeatureView(features=patches, importance=state.run.importance)
            chosen = pruner.select(view, state.plan.selected)
        state.run.chosen = chosen
        picked = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[2]))
        return (torch.cat((hidden[:, :prefix], picked), dim=1) if prefix else picked, *args[1:])

    stack.callback(family.projector.register_forward_pre_hook(before_projector).remove)
