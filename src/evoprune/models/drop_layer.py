"""Hooks on one layer of the language model that drops tokens, behind itself or between its attention and its MLP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention import hang
from .blocks import UnsupportedModel


class Watcher(Protocol):
    """Who decides what a layer drops."""

    def look(self, query: Tensor, key: Tensor, scaling: float, mask: Any) -> None:
        """See queries (B, H, Tq, D) and keys (B, Hk, Tk, D) behind RoPE, and the backend's own mask."""

    def choose(self, hidden: Tensor) -> Tensor | None:
        """Return which rows of `hidden` (B, S, C) go on, int64 (B, S'), -1 for padding; None: all of them."""


def layers_of(language_model: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder; UnsupportedModel where there are none to be found."""
    inner: Any = language_model
    layers = getattr(inner, "layers", None)
    if layers is None:
        layers = getattr(getattr(inner, "model", None), "layers", None)
    if layers is None or not all(hasattr(layer, "self_attn") for layer in layers):
        raise UnsupportedModel(
            f"{type(language_model).__name__} has no layers with self_attn: methods inside the language model cannot "
            "act on it, choose one that acts before it"
        )
    return list(layers)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return rows of (B, S, C) by int64 (B, S'); padding (-1) takes the first row, which nobody may read."""
    return values.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1]))


class LookTap:
    """Attention of the base backend, with a look at its queries and keys."""

    def __init__(self, base: Callable[..., Any], watcher: Watcher):
        self.base, self.watcher = base, watcher

    def run(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, kwargs: dict[str, Any]
    ) -> Any:
        scaling = kwargs.get("scaling")
        with torch.no_grad():
            self.watcher.look(query, key, query.shape[-1] ** -0.5 if scaling is None else float(scaling), mask)
        return self.base(module, query, key, value, mask, **kwargs)


class DropLayer:
    """Hooks on a pre-norm layer ``h = h + attn(norm(h)); h = h + mlp(norm2(h))``.

    Inside: the pre-hook of norm2 takes the rows and keeps them, the hook of the MLP (or of the norm behind it) keeps
    its output m and returns a scalar zero, which adds to the layer's own, longer residual, and the hook of the layer
    returns rows + m. Otherwise the hook of the layer takes the rows of its output.
    """

    def __init__(self, layer: nn.Module, watcher: Watcher, *, inside: bool, looks: bool):
        self.layer, self.watcher, self.inside, self.looks = layer, watcher, inside, looks
        self.residual: Tensor | None = None
        self.update: Tensor | None = None

    def install(self, stack: ExitStack) -> None:
        layer: Any = self.layer
        if self.looks:
            hang(layer.self_attn, lambda base, name: LookTap(base, self.watcher), stack)
        if self.inside:
            norm, last = _mlp_of(layer)
            stack.callback(norm.register_forward_pre_hook(self.before_norm).remove)
            stack.callback(last.register_forward_hook(self.after_mlp).remove)
        # First of all hooks, so that transformers' capture of hidden states sees what goes on.
        stack.callback(layer.register_forward_hook(self.after_layer, prepend=True).remove)

    def reset(self) -> None:
        """Forget what a forward that failed has left."""
        self.residual = self.update = None

    def before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self.reset()
        index = self.watcher.choose(args[0])
        if index is None:
            return None
        self.residual = take_rows(args[0], index)
        return (self.residual, *args[1:])

    def after_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.residual is None:
            return None
        many = isinstance(output, tuple)  # experts return their router's logits too
        self.update = output[0] if many else output
        nothing = self.update.new_zeros(())
        return (nothing, *output[1:]) if many else nothing

    def after_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not self.inside:
            index = self.watcher.choose(hidden)
            taken = None if index is None else take_rows(hidden, index)
        else:
            taken = None if self.residual is None or self.update is None else self.residual + self.update
        self.reset()
        if taken is None:
            return None
        return (taken, *output[1:]) if isinstance(output, tuple) else taken


def _mlp_of(layer: Any) -> tuple[nn.Module, nn.Module]:
    """Return the norm before a layer's MLP, and the module whose output is added to the residual.

    Raises
    ------
    UnsupportedModel
        The layer adds its MLP otherwise: in parallel to its attention, scaled, or between other norms.
    """
    sandwich = hasattr(layer, "pre_feedforward_layernorm")
    names = (
        ("pre_feedforward_layernorm", "post_feedforward_layernorm") if sandwich else ("post_attention_layernorm", "mlp")
    )
    missing = [name for name in names if not isinstance(getattr(layer, name, None), nn.Module)]
    strange = () if sandwich else ("post_feedforward_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
    odd = [name for name in strange if hasattr(layer, name)]
    odd += ["residual_multiplier"] if getattr(layer, "residual_multiplier", 1.0) != 1.0 else []
    if missing or odd:
        found = f"no {' and no '.join(missing)}" if missing else " and ".join(odd)
        raise UnsupportedModel(
            f"a {type(layer).__name__} has {found}, and tokens cannot be dropped between its attention and its MLP: "
            "choose a method that drops behind a layer, such as FastV, or one that acts before the language model"
        )
    return getattr(layer, names[0]), getattr(layer, names[1])
