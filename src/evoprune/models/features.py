"""The feature stage: units are picked or combined between the encoder and the projector, which gets cheaper too.

A method that needs ``"projected"`` features, or the ``"relevance"`` of those to the question, picks behind the
projector: then nothing is picked before it, and every unit goes through, without the family's own poolings.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .base import Family
from .forms import Packed
from .picking import by_run, feature_form, picked
from .relevance import install_relevance, wants_tower
from .state import Run, TowerState

LATER = frozenset(["projected", "relevance"])  # what there is behind the projector only


def install_features(family: Family, state: TowerState, stack: ExitStack, processor: Any = None) -> None:
    """Pick features in a hook before or behind the projector, if the plan has a pruner of this stage.

    Families whose projector does not take plain patch features say `picks_itself`, and call `pick`; those whose tower
    is packed have their projector in it, and call `pick_projected` too. The `processor` has the words of the question.

    Raises
    ------
    ValueError
        The method needs what this model cannot show.
    """

    def before_projector(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (picked(state, args[0], feature_form(state), _runs(state)), *args[1:])

    def after_projector(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return picked(state, output, feature_form(state, 1), _runs(state))

    pruner = state.plan.feature
    if pruner is None:
        return
    if not state.plan.layers and pruner.needs & {"importance", "keys"}:
        raise ValueError(
            f"vision_feature_layer selects the embeddings (0), which no attention leads to, and {pruner.name} needs "
            f"{' and '.join(sorted(pruner.needs & {'importance', 'keys'}))} of one: choose a later feature layer or "
            "another method"
        )
    if "relevance" in pruner.needs:
        install_relevance(family, state, processor, stack)
    if isinstance(state.form, Packed):
        return
    if wants_projected(state):
        if wants_tower(state):
            _keep_entering(family, state, stack)
        stack.callback(family.projector.register_forward_hook(after_projector).remove)
    elif not family.picks_itself:
        _keep_cls(family, state, stack)
        stack.callback(family.projector.register_forward_pre_hook(before_projector).remove)


def wants_projected(state: TowerState) -> bool:
    """Return whether the feature stage picks behind the projector."""
    return state.plan.feature is not None and bool(state.plan.feature.needs & LATER)


def pick(state: TowerState, hidden: Tensor) -> Tensor:
    """Return the hidden states that the feature stage keeps; all of them where the plan has none, or picks later.

    `hidden` lies as the tower's own (`Family.form`), but with only those prefix tokens that the language model sees;
    it left the tower in the last run.
    """
    return hidden if wants_projected(state) else picked(state, hidden, feature_form(state), [state.run])


def pick_projected(state: TowerState, output: Tensor) -> Tensor:
    """Return what the feature stage keeps of the projector's output, one token a unit, if it picks there."""
    return picked(state, output, feature_form(state, 1), [state.run]) if wants_projected(state) else output


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


def _keep_cls(family: Family, state: TowerState, stack: ExitStack) -> None:
    """Keep the state of CLS in the hidden states that are read, where it may stand beside the features."""
    pruner = state.plan.feature
    alone = family.prefix == 1 and family.unit_side == 1 and not family.kept_prefix
    if pruner is None or "cls" not in pruner.needs or not alone:
        return

    def after_tower(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = getattr(output, "hidden_states", None)
        if states is not None and state.run.cls is None:  # chunks have been here one by one when the whole comes
            state.run.cls = torch.cat([states[layer][:, 0] for layer in family.feature_layers], dim=-1)

    stack.callback(family.tower.register_forward_hook(after_tower).remove)


def _keep_entering(family: Family, state: TowerState, stack: ExitStack) -> None:
    def before_projector(module: nn.Module, args: tuple[Any, ...]) -> None:
        for run, part in zip(runs := _runs(state), by_run(args[0], runs), strict=True):
            run.entering = part

    stack.callback(family.projector.register_forward_pre_hook(before_projector).remove)


def _runs(state: TowerState) -> list[Run]:
    """Return the runs whose hidden states reach the projector together: the tower's chunks."""
    runs = state.runs.get(state.modality, [])
    return runs if len(runs) > 1 else [state.run]
