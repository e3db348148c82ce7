"""Runs the layers of a language model again on a recorded prompt, with fewer tokens at each: the fit's inner loop.

Tower and prompt run once, in the model's own forward, which shows how each layer is called. From then on only the
layers run, one after the other, with positions and masks cut to the tokens that are left. What is kept of a prompt is
what enters the first layer, and what the model adds between layers (the deep features of Qwen3-VL).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.drop_layer import DropLayer
from .statistics import Places, Watch, totals


@dataclass
class Sample:
    """A recorded prompt.

    Attributes
    ----------
    places
        Its visual tokens and its text.
    hidden
        (1, S, C), what enters the first layer.
    calls
        How each layer is called, beside the hidden states.
    added
        What the model adds behind each layer, (1, S, C), None for nothing.
    totals
        For each layer and block the sums of cross and own attention in the unpruned model.
    """

    places: Places
    hidden: Tensor
    calls: list[dict[str, Any]]
    added: list[Tensor | None]
    totals: list[list[tuple[float, float]]]


class Replay:
    """The layers of one language model, hooked while `installed`."""

    def __init__(self, layers: Sequence[nn.Module], store: torch.device | str | None = None):
        self.layers, self.store = list(layers), store
        self.watch: Watch | None = None

    # The watcher of every layer is whoever runs just now.

    def look(self, query: Tensor, key: Tensor, scaling: float, mask: Any) -> None:
        if self.watch is not None:
            self.watch.look(query, key, scaling, mask)

    def choose(self, hidden: Tensor) -> Tensor | None:
        return None if self.watch is None else self.watch.choose(hidden)

    @contextmanager
    def installed(self) -> Iterator[Replay]:
        """Hook the layers; everything is undone at the end."""
        with ExitStack() as stack:
            for layer in self.layers:
                DropLayer(layer, self, inside=True, looks=True).install(stack)
            yield self

    @torch.no_grad()
    def record(self, visual: Tensor, forward: Callable[[], Any]) -> Sample:
        """Return what `forward` shows of one prompt, whose visual tokens are `visual`, bool (S,)."""
        sample = Sample(Places(visual), torch.empty(0), [], [], [])
        self.watch = Watch(sample.places)
        before: list[Tensor] = []

        def entering(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, call = _call(layer, args, kwargs)
            if hidden.shape[:2] != (1, len(visual)):
                raise ValueError(
                    f"the language model sees {tuple(hidden.shape[:2])} prompts and tokens, but one prompt of "
                    f"{len(visual)} was given: fit with one prompt at a time and no pruner applied"
                )
            if before:
                sample.added.append(self._kept(_difference(hidden, before.pop())))
            else:
                sample.hidden = self._kept(hidden)
            sample.calls.append({name: self._kept(value) for name, value in call.items()})

        def left(layer: nn.Module, args: Any, output: Any) -> None:
            before.append(_first(output))
            sample.totals.append(totals(self.watch.sums))  # type: ignore[union-attr]

        hooks = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in self.layers]
        hooks += [layer.register_forward_hook(left) for layer in self.layers]
        try:
            forward()
        finally:
            self.watch = None
            for hook in hooks:
                hook.remove()
        sample.added.append(None)
        return sample

    @torch.no_grad()
    def run(
        self, sample: Sample, choose: Callable[[int, list[tuple[Tensor, Tensor]]], list[Tensor]]
    ) -> list[list[int]]:
        """Return how many tokens of each block leave each layer, where ``choose(layer, sums)`` says what goes."""
        watch = self.watch = Watch(sample.places)
        hidden, counts = sample.hidden, []
        try:
            for number, layer in enumerate(self.layers):
                watch.choose_from = lambda sums, number=number: choose(number, sums)
                device = next(layer.parameters()).device  # a large model's layers lie on several
                call = cut(sample.calls[number], watch.columns.to(device), device)
                hidden = _first(layer(hidden.to(device), **call))
                added = sample.added[number]
                if added is not None:
                    hidden = hidden + added.to(hidden.device)[:, watch.columns.to(hidden.device)]
                counts.append(watch.left())
        finally:
            self.watch = None
        return counts

    def _kept(self, value: Any) -> Any:
        return value if self.store is None else _moved(value, self.store)


def cut(call: dict[str, Any], columns: Tensor, device: torch.device) -> dict[str, Any]:
    """Return a layer's keyword arguments for the columns of the prompt that are left."""
    made: dict[str, Any] = {}
    for name, given in call.items():
        value = _moved(given, device)
        if name.startswith("position_embeddings"):
            value = _mapped(value, lambda one: one.index_select(-2, columns))
        elif name in ("position_ids", "cache_position") and isinstance(value, Tensor):
            value = value.index_select(-1, columns)
        elif name == "attention_mask" and isinstance(value, Tensor):
            value = value.index_select(-1, columns)
            value = value.index_select(-2, columns) if value.dim() == 4 and value.shape[-2] > 1 else value
        made[name] = value
    return made


def _call(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return the hidden states that a layer is given, and all else by name."""
    names = list(inspect.signature(layer.forward).parameters)
    named = dict(zip(names, args, strict=False)) | kwargs
    return named.pop(names[0]), named


def _difference(hidden: Tensor, before: Tensor) -> Tensor | None:
    return None if hidden is before or torch.equal(hidden, before) else hidden - before


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _moved(value: Any, device: torch.device | str) -> Any:
    return _mapped(value, lambda one: one.to(device))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(one, change) for one in value)
    if isinstance(value, dict):
        return {name: _mapped(one, change) for name, one in value.items()}
    return value
