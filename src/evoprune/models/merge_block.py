"""Three hooks on a block that merges tokens between its attention and its MLP."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import EncoderPruner, LayerView
from .attention import Tap
from .blocks import BlockSpec
from .forms import unit_means
from .groups import Group
from .state import TowerState


class MergeBlock:
    """Merges tokens of one block between attention and MLP.

    The block computes ``h = h + attn(norm1(h)); h = h + mlp(norm2(h))``. The pre-hook of norm2 merges and keeps the
    merged residual x; the hook of the MLP keeps its output m and returns a scalar zero, which adds to the block's
    own, unmerged residual; the hook of the block returns x + m in its place.
    """

    def __init__(self, block: nn.Module, spec: BlockSpec, state: TowerState, layer: int, tap: Tap | None):
        self.block, self.spec, self.state, self.layer, self.tap = block, spec, state, layer, tap
        self.residual: Tensor | None = None
        self.unmerged: torch.Size = torch.Size()
        self.update: Tensor | None = None
        self.active = False

    def install(self, stack: ExitStack) -> None:
        norm2, mlp = getattr(self.block, self.spec.norm2), getattr(self.block, self.spec.mlp)
        stack.callback(norm2.register_forward_pre_hook(self.before_norm2).remove)
        stack.callback(mlp.register_forward_hook(self.after_mlp).remove)
        # First of all hooks, so that transformers' capture of hidden states sees the merged ones.
        stack.callback(self.block.register_forward_hook(self.after_block, prepend=True).remove)

    def reset(self) -> None:
        """Forget what a forward that failed has left."""
        self.residual = self.update = None
        self.active = False
        if self.tap is not None:
            self.tap.forget()

    def before_norm2(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, run = args[0], self.state.run
        self.active = run.merges_at(self.layer)
        if not self.active:
            return None
        self.unmerged = hidden.shape
        run.settle(self.state.form)
        scores, keys = self.tap.take(run) if self.tap is not None else (None, None)
        parts = self.state.form.split(hidden, run)
        merged = [
            self._merge(group, part, scores[i] if scores else None, keys[i] if keys else None)
            for i, (group, part) in enumerate(zip(run.groups, parts, strict=True))
        ]
        self.residual = self.state.form.join(hidden, merged, run)
        return (self.residual, *args[1:])

    def _merge(self, group: Group, units: Tensor, importance: Tensor | None, keys: Tensor | None) -> Tensor:
        merges = group.budget.merges[self.layer]
        if not merges:
            return units
        pruner: EncoderPruner = self.state.plan.encoder  # type: ignore[assignment]
        sizes = group.sizes
        if sizes is None:
            sizes = torch.ones(units.shape[:2], dtype=torch.float32, device=units.device)
        with torch.no_grad():
            hidden = unit_means(units, self.state.form.unit)
            view = LayerView(hidden=hidden, sizes=sizes, importance=importance, keys=keys, protected=None)
            matching = pruner.match(view, merges)
        merged, sizes = pruner.merge(units, sizes, matching)
        group.merged(matching, sizes)
        return merged

    def after_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self.active:
            return None
        self.update = output
        return output.new_zeros(self.unmerged if self.spec.in_place else ())

    def after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.active:
            return None
        residual, update = self.residual, self.update
        self.reset()
        if residual is None or update is None:
            raise RuntimeError(f"{type(module).__name__} ran without its norm or MLP: the pruner cannot act on it")
        merged = self.spec.combine(module, residual, update)
        return (merged, *output[1:]) if isinstance(output, tuple) else merged
