"""Encoding in chunks: the tower runs on a few items at a time, so that long videos need no more memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import Family
from .state import TowerState
from .undo import set_attribute

if TYPE_CHECKING:
    from .hooks import Tower


def install_chunks(tower: Tower, stack: ExitStack) -> None:
    """Let the tower run on at most `tower.batch` items at a time until `stack` closes; results are joined."""
    original = tower.tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip(tower.names, args, strict=False)), **kwargs}
        if not tower.state.active or tower.part or len(tower.family.items(arguments)) <= tower.batch:  # type: ignore[operator]
            return original(*args, **kwargs)
        outputs = []
        try:
            for part in tower.family.chunks(arguments, tower.batch):  # type: ignore[arg-type]
                tower.part += 1
                outputs.append(needed(tower.tower(**part), tower.family, tower.state))
        finally:
            tower.part = 0
        return join(outputs)

    set_attribute(tower.tower, "forward", forward, stack)


def needed(output: Any, family: Family, state: TowerState) -> Any:
    """Drop the hidden states that nobody reads: they would outgrow the memory that chunks save."""
    states = getattr(output, "hidden_states", None)
    if states is not None and not state.run_all:
        wanted = {layer % len(states) for layer in family.feature_layers}
        output.hidden_states = tuple(one if i in wanted else None for i, one in enumerate(states))
    return output


def join(outputs: Sequence[Any]) -> Any:
    """Return the outputs of all chunks as one: tensors behind one another, tuples and models' outputs by entry."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, dict):  # transformers' ModelOutput
        for name in list(first.keys()):
            setattr(first, name, join([getattr(one, name) for one in outputs]))
        return first
    if isinstance(first, (list, tuple)):
        return type(first)(join(parts) for parts in zip(*outputs, strict=True))
    return first
