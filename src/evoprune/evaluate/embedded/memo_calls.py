"""One call of the tower for the memo: whether it can be shared, what decides its output, and a run on a part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models import Family
from ...models.recording import notes
from ...models.state import Run, TowerState
from ...models.trees import outline, tensors
from ...ops import kernels

Kind = tuple[Hashable, ...]  # all that decides output and notes of a picture beside its pixels
Call = Callable[..., Any]


def serves(family: Family, state: TowerState | None, pixels: Any, rest: dict[str, Any]) -> bool:
    """Return whether each picture of a call can be taken for itself, and nobody asks for more than the model reads."""
    if torch.is_grad_enabled() or family.tower.training or torch.compiler.is_compiling():
        return False
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or not len(pixels) or tensors(rest):
        return False
    if state is None:
        return True
    run = state.run
    return state.active and not state.run_all and len(run.groups) == 1 and run.images == len(pixels)


def kind_of(pixels: Tensor, rest: dict[str, Any], family: Family, state: TowerState | None) -> Kind:
    """Return the kind of a call; None stands first where nothing is pruned before the end."""
    device, backend = pixels.device, family.tower.config._attn_implementation  # type: ignore[union-attr]
    autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    call = outline(rest), pixels.shape[1:], pixels.dtype, device, kernels.fast(), autocast, backend
    if state is None:
        return None, "whole", family.feature_layers, *call  # layers that the model does not read run too
    plan = state.plan
    taps = frozenset() if plan.feature is None else plan.feature.needs & {"importance", "keys"}
    early = plan.encoder is not None or plan.image is not None
    return (plan.pruners, state.run.modality) if early else None, taps, family.feature_layers, *call


def encode(
    original: Call, pixels: Tensor, rest: dict[str, Any], family: Family, state: TowerState | None, items: Sequence[int]
) -> tuple[Any, Any]:
    """Return what the tower makes of `pixels`, the call's own `items`, and what is noted of them."""
    if state is None:
        return _read(original(pixel_values=pixels, **rest), family), []
    run, budgets = state.run, state.run.budgets
    state.run = Run(state.plan, [budgets[i].full for i in items], run.modality, run.groups[0].device)
    try:
        output = _read(original(pixel_values=pixels, **rest), family)
        return output, notes(state.run)
    finally:
        state.run = run


def _read(output: Any, family: Family) -> Any:
    """Leave out hidden states that the model does not read: they would fill the memo."""
    states = getattr(output, "hidden_states", None)
    if states is not None:
        wanted = {layer % len(states) for layer in family.feature_layers}
        output.hidden_states = tuple(one if i in wanted else None for i, one in enumerate(states))
    return output


def digests(pixels: Tensor) -> list[bytes]:
    """Return a digest of each picture's numbers."""
    rows = pixels.detach().cpu().contiguous().view(torch.uint8).flatten(1).numpy()
    return [hashlib.sha256(row).digest() for row in rows]
