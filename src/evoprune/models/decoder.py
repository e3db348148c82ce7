"""The decoder stage: visual tokens go inside the language model, in the prefill; each layer's cache keeps what it saw.

Hooks: on the layers that drop (`drop_layer`), a pre-hook on every layer behind the first of them, which gives it the
positions and the mask of what is left, and two on the language model, which begin and end a pass. What leaves the
language model has the length of its prompt again, so that losses and `logits_to_keep` mean what they meant.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..pruners import DecoderPruner
from ..recipes import identify
from .base import Family, UnsupportedModel
from .decoder_at import At
from .decoder_cache import Memory, check_cache, memory_of
from .decoder_layout import Span, starting
from .decoder_masks import NEVER
from .decoder_pass import Pass, arguments_of, deepstack, needs_no_mask
from .decoder_prompt import known_columns, spans_of
from .drop_layer import DropLayer, layers_of, take_rows
from .facts import Facts
from .hooks import keep_checkpointing
from .undo import set_attribute


class Decoder:
    """Drops visual tokens inside one language model, by one pruner."""

    def __init__(self, family: Family, pruner: DecoderPruner, stack: ExitStack):
        self.family, self.pruner = family, pruner
        self.model: Any = family.language_model
        self.layers: list[Any] = list(layers_of(self.model))
        config: Any = self.model.config
        self.backend = str(config._attn_implementation or "eager")
        if any(word in self.backend for word in NEVER):
            raise ValueError(
                f"{pruner.name} drops tokens inside the language model, whose attention backend {self.backend!r} has "
                "masks that cannot be cut: load the model with attn_implementation='sdpa'"
            )
        if "flash" in self.backend and _slides(config):
            raise ValueError(
                f"{pruner.name} drops tokens inside the language model, and {self.backend!r} would count its sliding "
                "window in the tokens that are left: load the model with attn_implementation='sdpa'"
            )
        if "hidden" in pruner.needs and not hasattr(self.model, "norm"):
            raise UnsupportedModel(
                f"{type(self.model).__name__} has no final norm, which {pruner.name} compares tokens behind: choose "
                "another method"
            )
        pruner.check_model(identify(family.base.config))
        self.dropping = self._dropping()
        self.facts: Facts | None = None  # of the call in progress
        self.repeat = 1  # beams: rows of the call for each row of the prompt
        self.run: Pass | None = None
        self.left: tuple[tuple[int, ...], ...] = ()  # of the last prefill: what leaves each layer of each block
        if self.dropping:
            self._install(stack)

    def _dropping(self) -> list[int]:
        """Return the layers that may drop; ValueError where no picture's counts would do."""
        pruner = self.pruner
        if type(pruner.keep) is int and pruner.counted and pruner.keep < pruner.minimum:
            raise ValueError(
                f"keep={pruner.keep} is less than the {pruner.minimum} tokens that {pruner.name} with these settings "
                "leaves at least: keep more, or choose another method"
            )
        many = 10**6  # so many that no rounding hides a layer
        many = max(many, pruner.keep) if type(pruner.keep) is int else many
        leaves = (many, *pruner.leaves(many, len(self.layers)))
        return [i for i in range(len(self.layers)) if leaves[i + 1] < leaves[i]]

    def _install(self, stack: ExitStack) -> None:
        stack.callback(self.close)
        looks = bool(self.pruner.needs & {"attention", "sums", "keys"})
        for i in self.dropping:
            DropLayer(self.layers[i], At(self, i), inside=self.pruner.inside, looks=looks).install(stack)
        for i, layer in enumerate(self.layers):
            if i >= self.dropping[0]:
                keep_checkpointing(layer, stack)
                stack.callback(layer.register_forward_pre_hook(self._before(i), with_kwargs=True).remove)
        stack.callback(self.model.register_forward_pre_hook(self.begin, with_kwargs=True).remove)
        stack.callback(self.model.register_forward_hook(self.end, with_kwargs=True).remove)
        if hasattr(self.model, "_deepstack_process"):
            process = deepstack(self.model._deepstack_process, lambda: self.run)
            set_attribute(self.model, "_deepstack_process", process, stack)

    def expect(self, facts: Facts | None) -> None:
        """Begin a call of the whole model, with what its prompt looks like."""
        self.facts, self.left = facts, ()

    def close(self) -> None:
        """Let what is left of the hooks do nothing."""
        self.run = self.facts = None

    def leaves(self, tokens: int, items: int) -> tuple[int, ...]:
        """Return how many tokens leave each layer of a block of `tokens` that comes from `items` tower items."""
        pruner, keep = self.pruner, self.pruner.keep
        if type(keep) is int and pruner.counted:
            if keep * items >= tokens and (items > 1 or not self._fixed()):
                return (tokens,) * len(self.layers)
            if items > 1:
                pruner = replace(pruner, keep=keep * items)
        return pruner.leaves(tokens, len(self.layers))

    def _fixed(self) -> bool:
        return self.family.grid is not None and self.family.uniform

    # A pass.

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.run = None
        now = str(self.model.config._attn_implementation or "eager")
        if now != self.backend:
            raise RuntimeError(
                f"the attention implementation of the language model changed from {self.backend!r} to {now!r} after "
                "the pruner was applied: call remove() on the handle and apply again"
            )
        cache = kwargs.get("past_key_values")
        memory = memory_of(cache)
        if self.facts is None and memory is None:
            return None
        embeds = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        batch, width = embeds.shape[:2]
        past = int(cache.get_seq_length()) if cache is not None else 0
        if memory is not None:
            memory = memory.checked(past, batch)
        self.repeat = 1 if self.facts is None else max(1, batch // self.facts.real.shape[0])
        real = known_columns(self.facts, batch, past + width)
        spans = spans_of(self.facts, batch, past, width, self.pruner.name)
        asked = real[:, past:].clone()
        if self.facts is not None:  # without a cache what was generated comes along, and has no part in the choice
            asked[:, max(0, self.facts.whole.shape[1] - past) :] = False
        rows = starting([span for span, _ in spans], asked)
        drops = self._drops(spans)
        if not drops and memory is None:
            return None
        if drops:
            check_cache(self.pruner.name, cache)
        # Padded rows are numbered as they would be alone, as keys depend on it; what follows counts on.
        ranked = memory is not None and memory.ranked if past else bool(drops)
        self.run = Pass(rows, drops, real, memory, self.backend, ranked)
        for layer in self.layers[self.dropping[0] :]:
            layer.gradient_checkpointing = False  # recomputed, it would meet the rows of another layer
        if not ranked or kwargs.get("position_ids") is not None or self.run.plain:
            return None
        ranks = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, past:]
        return args, {**kwargs, "position_ids": ranks.to(embeds.device)}

    def _drops(self, spans: list[tuple[Span, int]]) -> dict[int, list[int]]:
        """Return for each layer that drops how many tokens each block keeps."""
        left = [self.leaves(span.tokens, items) for span, items in spans]
        if spans:
            self.left = tuple(one for one, (span, _) in zip(left, spans, strict=True) if span.row % self.repeat == 0)
        before, drops = [span.tokens for span, _ in spans], {}
        for layer in self.dropping:
            after = [one[layer] for one in left]
            if after != before:
                drops[layer] = after
            before = after
        return drops

    def end(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        run, self.run = self.run, None
        if run is None:
            return None
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        if cache is not None and not isinstance(cache, tuple):
            Memory.after(run.memory, run.seen, run.past + run.width, run.ranked).keep_on(cache)
        if run.alive is None:
            return None
        # Each dropped place gets the state of the last token that is left before it: what follows is told from that.
        hidden = output[0]
        places = torch.where(run.alive < 0, run.width, run.alive).to(hidden.device)
        order = torch.arange(places.shape[1], device=places.device).expand_as(places)
        nearest = places.new_full((run.batch, run.width + 1), -1).scatter(1, places, order)[:, : run.width]
        nearest = nearest.cummax(dim=1).values
        whole = take_rows(hidden, nearest).masked_fill((nearest < 0)[..., None], 0.0)
        if isinstance(output, tuple):
            return (whole, *output[1:])
        output["last_hidden_state"] = whole
        return output

    # Layers.

    def _before(self, layer: int) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            run = self.run
            if run is None:
                return None
            cache = kwargs.get("past_key_values")
            stored = run.memory.held.get(layer) if run.memory is not None and cache is not None else None
            if run.alive is None and stored is None:
                return None
            if stored is not None and needs_no_mask(run, stored, cache, layer):
                return args, {**kwargs, "attention_mask": None}
            hidden = args[0] if args else kwargs["hidden_states"]
            return args, arguments_of(run, layer, stored, hidden, kwargs)

        return before


def _slides(config: Any) -> bool:
    """Whether any layer of a language model looks through a sliding window."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any("sliding" in kind for kind in kinds)
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True) is not False
