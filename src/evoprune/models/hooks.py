"""Hooks inside the tower: three a merging block, one for unread layers, two around the whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import EncoderPruner, LayerView
from .attention import Tap, install_tap
from .base import BlockSpec, Family
from .plan import Plan
from .state import Run, TowerState
from .undo import set_attribute


class MergeBlock:
    """Merges tokens of one block between attention and MLP.

    The block computes ``h = h + attn(norm1(h)); h = h + mlp(norm2(h))``. The pre-hook of norm2 merges and keeps the
    merged residual x; the hook of the MLP keeps its output m and returns a scalar zero, which adds to the block's
    own, unmerged residual; the hook of the block returns x + m in its place.
    """

    def __init__(self, block: nn.Module, spec: BlockSpec, state: TowerState, merges: tuple[int, int], tap: Tap | None):
        self.block, self.spec, self.state, self.tap = block, spec, state, tap
        self.tokens, self.merges = merges
        self.residual: Tensor | None = None
        self.update: Tensor | None = None

    def install(self, stack: ExitStack) -> None:
        norm2, mlp = getattr(self.block, self.spec.norm2), getattr(self.block, self.spec.mlp)
        stack.callback(norm2.register_forward_pre_hook(self.before_norm2).remove)
        stack.callback(mlp.register_forward_hook(self.after_mlp).remove)
        # First of all hooks, so that transformers' capture of hidden states sees the merged ones.
        stack.callback(self.block.register_forward_hook(self.after_block, prepend=True).remove)

    def before_norm2(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, prefix, run = args[0], self.state.prefix, self.state.run
        if hidden.shape[1] - prefix != self.tokens:
            raise ValueError(
                f"{hidden.shape[1] - prefix} patch tokens reach a layer where the pruner planned for {self.tokens}: "
                "give pictures of the size that the model's processor makes"
            )
        pruner: EncoderPruner = self.state.plan.encoder  # type: ignore[assignment]
        patches = hidden[:, prefix:]
        sizes = run.sizes
        if sizes is None:
            sizes = torch.ones(patches.shape[:2], dtype=torch.float32, device=patches.device)
        importance = keys = None
        if self.tap is not None:
            importance, keys = self.tap.importance, self.tap.keys
            self.tap.importance = self.tap.keys = None
        with torch.no_grad():
            view = LayerView(hidden=patches, sizes=sizes, importance=importance, keys=keys, protected=None)
            matching = pruner.match(view, self.merges)
        merged, sizes = pruner.merge(patches, sizes, matching)
        run.merged(matching, sizes)
        self.residual = torch.cat((hidden[:, :prefix], merged), dim=1) if prefix else merged
        return (self.residual, *args[1:])

    def after_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self.update = output
        return output.new_zeros(())

    def after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        residual, update = self.residual, self.update
        self.residual = self.update = None
        if residual is None or update is None:
            raise RuntimeError(f"{type(module).__name__} ran without its norm or MLP: the pruner cannot act on it")
        merged = self.spec.combine(module, residual, update)
        return (merged, *output[1:]) if isinstance(output, tuple) else merged


class Tower:
    """Begins and ends each run of the tower, and keeps it from running where the plan no longer holds."""

    def __init__(self, family: Family, plan: Plan, state: TowerState):
        tower: Any = family.tower
        self.tower = tower
        self.plan, self.state = plan, state
        self.patch_size = family.patch_size
        self.blocks: list[MergeBlock] = []
        self.stateful: list[Any] = []  # blocks that read what this run has merged so far
        self.base = tower.config._attn_implementation
        self.tapped = False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.check()
        pixels = args[0] if args else kwargs["pixel_values"]
        if self.plan.input is not None:
            size = self.plan.grid * self.patch_size
            pixels = resize(pixels, size)
            kwargs = {**kwargs, "interpolate_pos_encoding": True}
        for merging in self.blocks:
            merging.residual = merging.update = None
        for block in self.stateful:
            # Recomputed in the backward pass, it would read the state of a later layer or forward.
            block.gradient_checkpointing = False
        wants_all = kwargs.get("output_hidden_states") is True or getattr(module.config, "output_hidden_states", False)
        self.state.run_all = bool(wants_all) and not self.state.inside_model
        self.state.run = Run(self.plan, int(pixels.shape[0]), pixels.device)
        return ((pixels, *args[1:]), kwargs) if args else (args, {**kwargs, "pixel_values": pixels})

    def check(self) -> None:
        """Raise RuntimeError if `set_attn_implementation` was called after apply."""
        now = self.tower.config._attn_implementation
        if self.tapped and now != self.base:
            raise RuntimeError(
                f"the attention implementation of the vision tower changed from {self.base!r} to {now!r} after the "
                "pruner was applied: call remove() on the handle and apply again"
            )


def resize(pixels: Tensor, size: int) -> Tensor:
    """Return pictures (I, C, H, W) at size x size: bilinear with antialiasing, in float32, in the dtype given."""
    small = nn.functional.interpolate(
        pixels.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return small.to(pixels.dtype)


def skip(block: Any, state: TowerState) -> Callable[..., Any]:
    """Return a forward for a layer whose output nobody reads: its input, unless all hidden states are asked for."""
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if state.run_all:
            return original(*args, **kwargs)
        return args[0] if args else kwargs["hidden_states"]

    return forward


def install_tower(family: Family, plan: Plan, state: TowerState, stack: ExitStack) -> Tower:
    """Install all hooks of the encoder stage and the tower's own on `stack`."""
    tower = Tower(family, plan, state)
    blocks, first = family.blocks, next((i for i, merged in enumerate(plan.merges) if merged), len(plan.merges))
    needs = plan.encoder.needs if plan.encoder is not None else frozenset()
    proportional = plan.encoder is not None and plan.encoder.proportional_attention
    if proportional and "flash" in str(tower.base):
        raise ValueError(
            f"proportional_attention adds a bias that {tower.base!r} cannot take: load with 'sdpa' or 'eager'"
        )
    for i, merged in enumerate(plan.merges):
        block, last = blocks[i], i == len(plan.merges) - 1
        wants_feature = last and plan.feature is not None and "importance" in plan.feature.needs
        tap = None
        if (merged and needs) or (proportional and i > first) or wants_feature:
            tap = install_tap(getattr(block, family.block.attn), state, stack)
            tap.wants_importance = bool(merged) and "importance" in needs
            tap.wants_keys = bool(merged) and "keys" in needs
            tap.wants_feature, tap.adds_sizes = wants_feature, proportional
            tower.tapped = True
        if merged or tap is not None:
            _keep_checkpointing(block, stack)
            tower.stateful.append(block)
        if merged:
            merging = MergeBlock(block, family.block, state, (plan.width_of(i), merged), tap)
            merging.install(stack)
            tower.blocks.append(merging)
    for block in blocks[len(plan.merges) :]:
        set_attribute(block, "forward", skip(block, state), stack)
    stack.callback(tower.tower.register_forward_pre_hook(tower.before, with_kwargs=True).remove)
    return tower


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
