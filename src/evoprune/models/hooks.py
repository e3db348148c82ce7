"""Hooks inside the tower: three a merging block, one for unread layers, two around the whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import EncoderPruner, LayerView
from .attention import Tap, install_tap
from .base import BlockSpec, Family
from .chunks import install_chunks
from .forms import Packed, unit_means
from .plan import Plan
from .state import Group, Run, TowerState
from .undo import set_attribute


class MergeBlock:
    """Merges tokens of one block between attention and MLP.

    The block computes ``h = h + attn(norm1(h)); h = h + mlp(norm2(h))``. The pre-hook of norm2 merges and keeps the
    merged residual x; the hook of the MLP keeps its output m and returns a scalar zero, which adds to the block's
    own, unmerged residual; the hook of the block returns x + m in its place.
    """

    def __init__(self, block: nn.Module, spec: BlockSpec, state: TowerState, layer: int, tap: Tap | None):
        self.block, self.spec, self.state, self.layer, self.tap = block, spec, state, layer, tap
        self.residual: Tensor | None = None
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

    def before_norm2(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, run = args[0], self.state.run
        self.active = merges_at(run, self.layer)
        if not self.active:
            return None
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
        return output.new_zeros(())

    def after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.active:
            return None
        residual, update = self.residual, self.update
        self.reset()
        if residual is None or update is None:
            raise RuntimeError(f"{type(module).__name__} ran without its norm or MLP: the pruner cannot act on it")
        merged = self.spec.combine(module, residual, update)
        return (merged, *output[1:]) if isinstance(output, tuple) else merged


def merges_at(run: Run, layer: int) -> bool:
    """Return whether any picture of the run merges at `layer`."""
    return any(group.budget.merges[layer] for group in run.groups)


class Tower:
    """Begins and ends each run of the tower, and keeps it from running where the plan no longer holds."""

    def __init__(self, family: Family, plan: Plan, state: TowerState, batch: int | None = None):
        tower: Any = family.tower
        self.tower, self.family, self.batch = tower, family, batch
        self.plan, self.state = plan, state
        self.blocks: list[MergeBlock] = []
        self.stateful: list[Any] = []  # blocks that read what this run has merged so far
        self.base = tower.config._attn_implementation
        self.tapped = False
        self.names = [name for name in inspect.signature(tower.forward).parameters if name != "kwargs"]
        self.part = 0  # 0: no chunks; else the number of the chunk that runs, from 1 on

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.check()
        arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        grids = self.family.items(arguments)
        if self.batch is not None and not self.part and len(grids) > self.batch:
            return None  # comes again, chunk by chunk
        for merging in self.blocks:
            merging.reset()
        for block in self.stateful:
            # Recomputed in the backward pass, it would read the state of a later layer or forward.
            block.gradient_checkpointing = False
        wants_all = kwargs.get("output_hidden_states") is True or getattr(module.config, "output_hidden_states", False)
        self.state.run_all = bool(wants_all) and not self.state.inside_model
        run = self.state.begin(
            grids, next(v.device for v in arguments.values() if isinstance(v, Tensor)), self.part > 1
        )
        grid = run.budgets[0].grid if self.plan.image is not None and grids else None
        if grid is None or grid == grids[0]:
            return None
        return (), self.family.resize(arguments, grid)

    def check(self) -> None:
        """Raise RuntimeError if `set_attn_implementation` was called after apply."""
        now = self.tower.config._attn_implementation
        if self.tapped and now != self.base:
            raise RuntimeError(
                f"the attention implementation of the vision tower changed from {self.base!r} to {now!r} after the "
                "pruner was applied: call remove() on the handle and apply again"
            )


def skip(block: Any, state: TowerState) -> Callable[..., Any]:
    """Return a forward for a layer whose output nobody reads: its input, unless all hidden states are asked for."""
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if state.run_all:
            return original(*args, **kwargs)
        return args[0] if args else kwargs["hidden_states"]

    return forward


def install_tower(family: Family, plan: Plan, state: TowerState, stack: ExitStack, batch: int | None = None) -> Tower:
    """Install all hooks of the encoder stage and the tower's own on `stack`; `batch` items go through at a time."""
    tower = Tower(family, plan, state, batch)
    needs = plan.encoder.needs if plan.encoder is not None else frozenset()
    proportional = plan.encoder is not None and plan.encoder.proportional_attention
    if proportional and "flash" in str(tower.base):
        raise ValueError(
            f"proportional_attention adds a bias that {tower.base!r} cannot take: load with 'sdpa' or 'eager'"
        )
    if proportional and isinstance(state.form, Packed):
        raise ValueError(
            f"proportional_attention is not available for {family.name}, whose pictures are packed into one sequence: "
            "set it to False"
        )
    first = min(plan.merging, default=plan.layers)
    for i, block in enumerate(family.blocks[: plan.layers]):
        merges, last = i in plan.merging, i == plan.layers - 1
        wants_feature = last and plan.feature is not None and "importance" in plan.feature.needs
        tap = None
        if (merges and needs) or (proportional and i > first) or wants_feature:
            tap = install_tap(getattr(block, family.block.attn), state, i, stack)
            tap.wants_importance = merges and "importance" in needs
            tap.wants_keys = merges and "keys" in needs
            tap.wants_feature, tap.adds_sizes = wants_feature, proportional
            tower.tapped = True
        follows = i > first and type(family).block_arguments is not Family.block_arguments
        if merges or tap is not None or follows:
            _keep_checkpointing(block, stack)
            tower.stateful.append(block)
        if follows:
            _follow(family, state, block, stack)
        if merges:
            merging = MergeBlock(block, family.block, state, i, tap)
            merging.install(stack)
            tower.blocks.append(merging)
    for block in family.blocks[plan.layers :]:
        set_attribute(block, "forward", skip(block, state), stack)
    if batch is not None:
        install_chunks(tower, stack)
    stack.callback(tower.tower.register_forward_pre_hook(tower.before, with_kwargs=True).remove)
    return tower


def _follow(family: Family, state: TowerState, block: Any, stack: ExitStack) -> None:
    """Let a block behind a merge have the positions and masks of the tokens that are left."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not any(group.matchings for group in state.run.groups):
            return None
        return args, family.block_arguments(state.run, kwargs)

    stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)


def _keep_checkpointing(block: Any, stack: ExitStack) -> None:
    """Restore the block's own checkpointing flag as the other blocks have it, when the stack closes."""
    had = "gradient_checkpointing" in block.__dict__
    before = block.__dict__.get("gradient_checkpointing")

    def undo() -> None:
        if had:
            block.gradient_checkpointing = before
        else:
            block.__dict__.pop("gradient_checkpointing", None)

    stack.callback(undo)
