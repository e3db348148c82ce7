"""Tensors inside nested arguments and outputs: tuples, lists, dicts and the models' outputs of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


def mapped(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return `tree` with ``change(tensor)`` in the place of each tensor; the same tensor twice stays the same.

    Raises
    ------
    TypeError
        `tree` holds an object that may hide tensors.
    """
    seen: dict[int, Any] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, Tensor):
            if id(part) not in seen:
                seen[id(part)] = change(part)
            return seen[id(part)]
        if isinstance(part, dict):  # transformers' ModelOutput is one
            values = {name: walk(value) for name, value in part.items()}
            return values if type(part) is dict else type(part)(**values)
        if isinstance(part, (list, tuple)):
            each = [walk(value) for value in part]
            return type(part)(*each) if hasattr(part, "_fields") else type(part)(each)
        if isinstance(part, _PLAIN):
            return part
        raise TypeError(f"a {type(part).__name__} may hide tensors")

    return walk(tree)


def tensors(tree: Any) -> list[Tensor]:
    """Return all tensors of `tree` in order, each once."""
    found: list[Tensor] = []
    mapped(tree, found.append)
    return found


def outline(tree: Any) -> Any:
    """Return what two trees have in common if one can take the other's place: all but the tensors' values; hashable."""
    if isinstance(tree, Tensor):
        return Tensor, tree.shape, tree.stride(), tree.dtype, tree.device
    if isinstance(tree, dict):
        return type(tree), tuple((name, outline(value)) for name, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return type(tree), tuple(outline(value) for value in tree)
    return type(tree), tree
