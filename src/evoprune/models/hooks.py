"""Hooks around the tower and its blocks: where runs begin, what unread layers do, what blocks behind a merge get."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from .base import Family
from .chunks import install_chunks
from .merge_block import MergeBlock
from .plan import Plan
from .state import TowerState
from .undo import set_attribute


class Tower:
    """Begins and ends each run of the tower, and keeps it from running where the plan no longer holds."""

    def __init__(self, family: Family, plan: Plan, state: TowerState, batch: int | None = None):
        tower: Any = family.tower
        self.tower, self.family, self.batch = tower, family, batch
        self.plan, self.state = plan, state
        self.blocks: list[MergeBlock] = []
        self.stateful: list[Any] = []  # blocks that read what this run has merged so far
        self.base = family.backend
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
        wants_all = kwargs.get("output_hidden_states") is True or getattr(
            self.family.tower_config, "output_hidden_states", False
        )
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
        now = self.family.backend
        if self.tapped and now != self.base:
            raise RuntimeError(
                f"the attention implementation of the vision tower changed from {self.base!r} to {now!r} after the "
                "pruner was applied: call remove() on the handle and apply again"
            )


def skip(block: Any, state: TowerState) -> Callable[..., Any]:
    """Return a forward for a layer whose output nobody reads: its input, unless all hidden states are asked for."""
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if state.run_all or not state.active:
            return original(*args, **kwargs)
        return args[0] if args else kwargs["hidden_states"]

    return forward


def install_tower(family: Family, plan: Plan, state: TowerState, stack: ExitStack, batch: int | None = None) -> Tower:
    """Install all hooks of the encoder stage and the tower's own on `stack`; `batch` items go through at a time."""
    tower = Tower(family, plan, state, batch)
    needs = plan.encoder.needs if plan.encoder is not None else frozenset()
    later = plan.feature.needs if plan.feature is not None else frozenset()
    proportional = plan.encoder is not None and plan.encoder.proportional_attention
    if proportional and "flash" in str(tower.base):
        raise ValueError(
            f"proportional_attention adds a bias that {tower.base!r} cannot take: load with 'sdpa' or 'eager'"
        )
    first = min(plan.merging, default=plan.layers)
    for i, block in enumerate(family.blocks[: plan.layers]):
        merges, last = i in plan.merging, i == plan.layers - 1
        wants_feature, wants_feature_keys = last and "importance" in later, last and "keys" in later
        tap = None
        if (merges and needs) or (proportional and i > first) or wants_feature or wants_feature_keys:
            tap = family.tap(block, state, i, stack)
            tap.wants_importance = merges and "importance" in needs
            tap.wants_keys = merges and "keys" in needs
            tap.wants_feature, tap.wants_feature_keys = wants_feature, wants_feature_keys
            tap.adds_sizes = proportional
            tower.tapped = True
        follows = i > first and type(family).block_arguments is not Family.block_arguments
        if merges or tap is not None or follows:
            keep_checkpointing(block, stack)
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


def keep_checkpointing(block: Any, stack: ExitStack) -> None:
    """Restore the block's own checkpointing flag as the other blocks have it, when the stack closes."""
    had = "gradient_checkpointing" in block.__dict__
    before = block.__dict__.get("gradient_checkpointing")

    def undo() -> None:
        if had:
            block.gradient_checkpointing = before
        else:
            block.__dict__.pop("gradient_checkpointing", None)

    stack.callback(undo)
