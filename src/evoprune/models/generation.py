"""What of a `generate` call speaks of the prompt's length, turned from the user's long prompt to the short one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .prompt import Layout

LENGTHS = ("max_length", "min_length")


def adapt(model: Any, layout: Layout, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return generate's `arguments` for the short prompt: lengths, streamer and the user's own callbacks."""
    changed = dict(arguments)
    if layout.dropped:
        _lengths(model, layout.dropped, changed)
    if layout.ids is None:  # embeddings without ids: generate returns and streams new tokens only
        return changed
    if changed.get("streamer") is not None:
        changed["streamer"] = PromptStreamer(changed["streamer"], layout.ids)
    for name in ("logits_processor", "stopping_criteria"):
        if changed.get(name) is not None:
            changed[name] = _callbacks(name, changed[name], layout)
    allowed = changed.get("prefix_allowed_tokens_fn")
    if allowed is not None:
        ids, width = layout.ids, layout.columns.shape[1]
        changed["prefix_allowed_tokens_fn"] = lambda batch, sent: allowed(
            batch, torch.cat((ids[batch].to(sent.device), sent[width:]))
        )
    return changed


def restore(output: Any, layout: Layout) -> Any:
    """Return generate's output with the user's own prompt in front of the new tokens."""
    if layout.ids is None:
        return output
    if isinstance(output, Tensor):
        return full_prompt(output, layout)
    if getattr(output, "sequences", None) is not None:
        output.sequences = full_prompt(output.sequences, layout)
    return output


def full_prompt(sequences: Tensor, layout: Layout) -> Tensor:
    """Return `sequences` (B * n, S + new) as (B * n, L + new)."""
    if layout.ids is None:
        return sequences
    ids = layout.ids.to(sequences.device)
    ids = ids.repeat_interleave(sequences.shape[0] // ids.shape[0], dim=0)
    return torch.cat((ids, sequences[:, layout.columns.shape[1] :]), dim=1)


class PromptStreamer:
    """Hands the user's streamer the prompt that the user gave, then every new token."""

    def __init__(self, streamer: Any, ids: Tensor):
        self.streamer, self.ids, self.started = streamer, ids, False

    def put(self, value: Tensor) -> None:
        if not self.started:
            self.started = True
            value = self.ids.to(value.device).repeat_interleave(value.shape[0] // self.ids.shape[0], dim=0)
        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.streamer, name)


def _lengths(model: Any, dropped: int, changed: dict[str, Any]) -> None:
    config = changed.get("generation_config")
    own = getattr(model, "generation_config", None)
    for name in LENGTHS:
        new_tokens = name.replace("length", "new_tokens")
        if any(value is not None for value in (changed.get(new_tokens), getattr(config, new_tokens, None))):
            continue  # counts new tokens, which stay the same
        if changed.get(name) is not None:
            changed[name] = _less(changed[name], dropped)
        elif config is not None and getattr(config, name, None) is not None:
            config = copy.deepcopy(config)
            setattr(config, name, _less(getattr(config, name), dropped))
            changed["generation_config"] = config
        elif config is None or getattr(config, name, None) is None:
            default = getattr(own, name, None)
            if default is not None and getattr(own, new_tokens, None) is None:
                changed[name] = _less(default, dropped)


def _less(length: int, dropped: int) -> int:
    # Not below 1: a prompt that is too long already is transformers' own error to raise.
    return max(1, int(length) - dropped) if length else length


class OnFullPrompt:
    """A user's logits processor or stopping criterion, shown the prompt that the user gave."""

    def __init__(self, call: Callable[..., Any], layout: Layout):
        self.call, self.layout = call, layout

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        return self.call(full_prompt(input_ids, self.layout), scores)


class CriterionOnFullPrompt(OnFullPrompt):
    """The same, with the keyword arguments that transformers hands to stopping criteria only."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return self.call(full_prompt(input_ids, self.layout), scores, **kwargs)


def _callbacks(name: str, calls: list[Any], layout: Layout) -> Any:
    from transformers import LogitsProcessorList, StoppingCriteriaList

    wrapper: type[OnFullPrompt] = CriterionOnFullPrompt if name == "stopping_criteria" else OnFullPrompt
    adapted = []
    for call in calls:
        if type(call).__module__.startswith("transformers."):
            # Kept by type, as the user's one replaces generate's own of that type.
            call = copy.copy(call)
            for attribute in ("max_length", "min_length", "prompt_length_to_skip", "begin_index"):
                if isinstance(getattr(call, attribute, None), int):
                    setattr(call, attribute, _less(getattr(call, attribute), layout.dropped))
            adapted.append(call)
        else:
            adapted.append(wrapper(call, layout))
    return LogitsProcessorList(adapted) if name == "logits_processor" else StoppingCriteriaList(adapted)
