"""The attention tap: on the layers that need it, queries and keys are seen on their way to the base backend.

A tapped module gets its own shallow copy of the config, in which the backend's name is ``"evoprune_" + base``; the
config of the model stays as it is. So nothing is saved with the model, no other layer takes a detour, and a later
`set_attn_implementation` is noticed by comparing the tower's config with the name that was there at first.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .forms import unit_means
from .state import Run, TowerState

PREFIX = "evoprune_"


class Tap:
    """Mailbox of one attention module.

    Attributes
    ----------
    received
        For each sequence (B, T) float32 attention received by each patch token: column mean of the whole matrix, CLS
        included as query and key, its column dropped (arXiv 2603.03681, erratum of equation 2: the column mean).
    keys
        For each sequence (B, T, D), the mean over the heads of the patch tokens' keys.
    """

    def __init__(self, state: TowerState, base: Callable[..., Any], layer: int):
        self.state, self.base, self.layer = state, base, layer
        self.wants_importance = self.wants_keys = self.wants_feature = self.adds_sizes = False
        self.received: list[Tensor] = []
        self.keys: list[Tensor] = []

    def look(self, query: Tensor, key: Tensor, scaling: float, bias: Tensor | None) -> None:
        """Take what the pruners need; query and key are (B, H, T, D), bias (B, T) or None."""
        run, prefix = self.state.run, self.state.form.prefix
        merges = run.merges_at(self.layer)
        with torch.no_grad():
            for q, k in self.state.form.sequences(query, key, run):
                if self.wants_importance and merges:
                    self.received.append(ops.received_attention(q, k, scaling, key_bias=bias)[:, prefix:])
                if self.wants_keys and merges:
                    self.keys.append(k.mean(dim=1)[:, prefix:])
                if self.wants_feature:  # what CLS looks at, or all tokens where there is no CLS
                    rows = q[:, :, :prefix] if prefix else q
                    run.received.append(ops.received_attention(rows, k, scaling, key_bias=bias)[:, prefix:])

    def take(self, run: Run) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Return importance (G, T) and keys (G, T, D) of each group's units, and forget them."""
        form = self.state.form
        scores = form.scores(self.received, run) if self.received else None
        keys = [unit_means(units, form.unit) for units in form.arrange(self.keys, run)] if self.keys else None
        self.received, self.keys = [], []
        return scores, keys

    def bias(self, query: Tensor) -> Tensor | None:
        """Return log sizes as a key bias, float32 (B, T with prefix), None while nothing has merged."""
        sizes = self.state.run.groups[0].sizes if self.state.run.groups else None
        if not self.adds_sizes or sizes is None:
            return None
        prefix = sizes.new_zeros(sizes.shape[0], self.state.form.prefix)
        return torch.cat((prefix, sizes.log().repeat_interleave(self.state.form.unit, dim=1)), dim=1)


def tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Any:
    """Attention of the base backend, unchanged, with a look at queries and keys (B, H, T, D)."""
    tap: Tap = module._evoprune_tap  # type: ignore[assignment]
    scaling = kwargs.get("scaling")
    bias = tap.bias(query)
    if bias is not None:
        if attention_mask is not None:
            raise ValueError("proportional_attention cannot be combined with an attention mask in the vision tower")
        attention_mask = bias[:, None, None, :].to(query.dtype)
    tap.look(query, key, query.shape[-1] ** -0.5 if scaling is None else float(scaling), bias)
    return tap.base(module, query, key, value, attention_mask, **kwargs)


def install_tap(attention: nn.Module, state: TowerState, layer: int, stack: ExitStack) -> Tap:
    """Tap `attention` until `stack` closes; a module that has a tap already shares it."""
    if "_evoprune_tap" in attention.__dict__:
        return attention.__dict__["_evoprune_tap"]
    config: Any = attention.config
    name = config._attn_implementation or "eager"
    tap = Tap(state, _base_function(attention, name, config), layer)
    own = copy.copy(config)
    # The plain property would change sub-configs too, which the shallow copy shares with the model.
    own._attn_implementation_internal = _register(name)
    attention.config = own
    attention.__dict__["_evoprune_tap"] = tap

    def undo() -> None:
        attention.config = config
        attention.__dict__.pop("_evoprune_tap", None)

    stack.callback(undo)
    return tap


def _register(base: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = PREFIX + base
    AttentionInterface.register(name, tapped_attention)
    if base in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _base_function(attention: nn.Module, name: str, config: Any) -> Callable[..., Any]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":  # in no table: each modeling file has its own
        return sys.modules[type(attention).__module__].eager_attention_forward  # type: ignore[attr-defined]
    base = ALL_ATTENTION_FUNCTIONS[name]
    return base if name == "sdpa" else _under_own_name(base, config)


def _under_own_name(base: Callable[..., Any], config: Any) -> Callable[..., Any]:
    """Let `base` find its own name in the module's config: flash attention looks there for what to load."""

    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tapped, module.config = module.config, config
        try:
            return base(module, *args, **kwargs)
        finally:
            module.config = tapped

    return attend
