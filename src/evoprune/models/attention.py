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

    def __init__(self, state: TowerState, base: Callable[..., Any], backend: str, layer: int):
        self.state, self.base, self.backend, self.layer = state, base, backend, layer
        self.wants_importance = self.wants_keys = self.adds_sizes = False
        self.wants_feature = self.wants_feature_keys = False  # for the feature stage, whether anything merges or not
        self.received: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.biases: tuple[Run, Tensor] | None = None  # of the sequences that are still to come in this layer

    def look(self, query: Tensor, key: Tensor, scaling: float, bias: Tensor | None, importance: bool = True) -> None:
        """Take what the pruners need; query and key are (B, H, T, D), bias (B, T) or None.

        Without `importance` where the attention received is known already.
        """
        run, prefix = self.state.run, self.state.form.prefix
        merges = run.merges_at(self.layer)
        with torch.no_grad():
            for q, k in self.state.form.sequences(query, key, run):
                if importance and self.wants_importance and merges:
                    self.received.append(self._of_all(ops.received_attention(q, k, scaling, key_bias=bias)))
                if self.wants_keys and merges:
                    self.keys.append(self._of_all(k.mean(dim=1)))
                if self.wants_feature:  # what CLS looks at, or all tokens where there is no CLS
                    rows = q[:, :, :prefix] if prefix else q
                    run.received.append(self._of_all(ops.received_attention(rows, k, scaling, key_bias=bias)))
                if self.wants_feature_keys:
                    run.keys.append(self._of_all(k.mean(dim=1)))

    def _of_all(self, values: Tensor) -> Tensor:
        """Return means over a layer's heads (B, T, ...) over those of other processes too, prefix off."""
        values = values[:, self.state.form.prefix :]
        return values if self.state.over_ranks is None else self.state.over_ranks(values)

    def in_one_pass(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: Any
    ) -> bool:
        """Whether output and attention received may come from `ops.attend` in place of the base backend.

        It keeps no graph, knows sdpa's plain form only, and gains nothing where neither a CPU nor our kernels run it.
        """
        run = self.state.run
        if not (self.wants_importance and self.backend == "sdpa" and run.merges_at(self.layer)):
            return False
        budgets = run.budgets  # of packed pictures one comes after the other; those that merge nothing stay native
        if not budgets[min(len(self.received), len(budgets) - 1)].merges[self.layer]:
            return False
        causal = kwargs.get("is_causal") or getattr(module, "is_causal", False)
        if mask is not None or kwargs.get("dropout") or causal or not ops.kernels.fast():
            return False
        if query.dtype == torch.float64:  # it computes in float32
            return False
        if torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value)):
            return False
        if len(self.state.form.sequences(query, key, run)) > 1:
            return False
        return query.device.type == "cpu" or ops.kernels.usable(query, key, value)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
        """Return the attention's output (B, T, H, D), as transformers' backends do, and take what pruners need."""
        output, received = ops.attend(query, key, value, scaling, key_bias=bias)
        self.received.append(self._of_all(received))
        self.look(query, key, scaling, bias, importance=False)
        return output.transpose(1, 2).contiguous()

    def take(self, run: Run) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Return importance (G, T) and keys (G, T, D) of each group's units, and forget them."""
        form = self.state.form
        scores = form.scores(self.received, run) if self.received else None
        keys = [unit_means(units, form.unit) for units in form.arrange(self.keys, run)] if self.keys else None
        self.forget()
        return scores, keys

    def forget(self) -> None:
        """Let go of what the sequences of one layer have left, all of them or those before a failure."""
        self.received, self.keys = [], []

    def bias(self, query: Tensor) -> Tensor | None:
        """Return log sizes as a key bias, float32 (B, T with prefix), None while nothing has merged.

        Packed towers call for each of their sequences (pictures or windows), in the order of the hidden states.
        """
        run = self.state.run
        if not self.adds_sizes or all(group.sizes is None for group in run.groups):
            return None
        if self.biases is None or self.biases[0] is not run:  # else some sequences of this layer have been here
            self.biases = run, self._log_sizes(run)
        rest, length = self.biases[1], query.shape[2]
        self.biases = (run, rest[:, length:]) if rest.shape[1] > length else None
        return rest[:, :length]

    def _log_sizes(self, run: Run) -> Tensor:
        device = next(group.sizes.device for group in run.groups if group.sizes is not None)
        sizes = [
            torch.ones(len(group.items), group.left, device=device) if group.sizes is None else group.sizes
            for group in run.groups
        ]
        values = self.state.form.spread(sizes, run).log()
        prefix = values.new_zeros(values.shape[0], self.state.form.prefix)
        return torch.cat((prefix, values), dim=1)

    def run(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> Any:
        """Attend with a look at queries and keys (B, H, T, D): by the base backend, or in one pass with the look."""
        scaling = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        bias = self.bias(query)
        if self.in_one_pass(module, query, key, value, mask, kwargs):
            return self.attend(query, key, value, scale, bias), None
        if bias is not None:
            if mask is not None:
                raise ValueError("proportional_attention cannot be combined with an attention mask in the vision tower")
            mask = bias[:, None, None, :].to(query.dtype)
        self.look(query, key, scale, bias)
        return self.base(module, query, key, value, mask, **kwargs)


def tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Any:
    """Stand in for an attention backend: whatever tap hangs at the module runs."""
    return module._evoprune_tap.run(module, query, key, value, attention_mask, kwargs)  # type: ignore[union-attr,operator]


def install_tap(attention: nn.Module, state: TowerState, layer: int, stack: ExitStack) -> Tap:
    """Tap an attention of the tower until `stack` closes; a module that has a tap already shares it."""
    return hang(attention, lambda base, name: Tap(state, base, name, layer), stack)


def hang(attention: nn.Module, make: Callable[[Callable[..., Any], str], Any], stack: ExitStack) -> Any:
    """Let `make(base backend, its name).run` compute a module's attention until `stack` closes.

    Raises
    ------
    ValueError
        The module's backend is in no table of transformers, so that nobody can stand in for it.
    """
    if "_evoprune_tap" in attention.__dict__:
        return attention.__dict__["_evoprune_tap"]
    config: Any = attention.config
    name = config._attn_implementation or "eager"
    tap = make(_base_function(attention, name, config), name)
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
    if name not in ALL_ATTENTION_FUNCTIONS:
        raise ValueError(
            f"the attention backend {name!r} of {type(attention).__name__} shows no queries and keys, which the pruner "
            "has to see: load the model with attn_implementation='sdpa'"
        )
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
