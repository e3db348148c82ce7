"""What a cache knows of its own layers once tokens were dropped between them: the prompt's columns that each holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ATTACHED = "_evoprune_columns"


@dataclass(frozen=True)
class Columns:
    """The prompt's columns that a layer holds keys of.

    Attributes
    ----------
    values
        int64 (B, n), -1 for padding of our own.
    end
        Every column from here on, to the end of the cache, is held too.
    padded
        Whether there is padding.
    """

    values: Tensor
    end: int
    padded: bool = False

    @staticmethod
    def first(batch: int, past: int) -> Columns:
        """Return all of the columns before `past`."""
        return Columns(torch.arange(past).expand(batch, -1), past)

    def upto(self, past: int) -> Columns:
        """Return them with every later column before `past` written out."""
        if self.end == past:
            return self
        later = torch.arange(self.end, past, device=self.values.device).expand(self.values.shape[0], -1)
        return Columns(torch.cat((self.values, later), dim=1), past, self.padded)

    def recent(self, window: int | None) -> Columns:
        """Return those that a cache with a sliding window still holds."""
        return self if window is None else Columns(self.values[:, -(window - 1) :], self.end, self.padded)

    def then(self, columns: Tensor, padded: bool) -> Columns:
        """Return them with the columns (B, q) of a call behind."""
        values = torch.cat((self.values.to(columns.device), columns), dim=1)
        return Columns(values, self.end, self.padded or padded)


@dataclass(frozen=True)
class Memory:
    """What is known of a cache that has seen `total` tokens.

    Attributes
    ----------
    held
        The columns of those layers that hold less than all.
    ranked
        Whether its tokens are numbered without padding.
    """

    held: Mapping[int, Columns]
    total: int
    ranked: bool = False

    @staticmethod
    def after(before: Memory | None, seen: Mapping[int, Columns], total: int, ranked: bool) -> Memory:
        """Return what is known behind a pass; `seen` are the columns of layers that did not get all of it."""
        held = dict(before.held) if before is not None else {}
        ended = {id(one): Columns(one.values, total, one.padded) for one in seen.values()}  # one for layers alike
        held |= {layer: ended[id(one)] for layer, one in seen.items()}
        return Memory(held, total, ranked)

    def checked(self, past: int, batch: int) -> Memory:
        """Return the memory for `batch` rows, which beams may have multiplied.

        Raises
        ------
        ValueError
            The cache has been cut since.
        """
        if past != self.total:
            raise ValueError(
                f"the cache holds {past} tokens but held {self.total} when tokens were dropped inside the language "
                "model, and its layers cannot be cut alike: generate without an assistant and without cropping"
            )
        rows = next(iter(self.held.values())).values.shape[0] if self.held else batch
        if batch % rows:
            raise ValueError(
                f"the cache held {rows} rows when tokens were dropped inside the language model, and {batch} are asked "
                "for now: give the rows of the prompt, or whole copies of each"
            )
        if batch == rows:
            return self
        wide = {
            id(one): Columns(one.values.repeat_interleave(batch // rows, 0), one.end, one.padded)
            for one in self.held.values()
        }
        held = {layer: wide[id(one)] for layer, one in self.held.items()}
        return Memory(held, self.total, self.ranked)

    def keep_on(self, cache: Any) -> None:
        """Note it on the cache."""
        setattr(cache, ATTACHED, self)


def memory_of(cache: Any) -> Memory | None:
    """Return what was noted on a cache that holds anything."""
    return getattr(cache, ATTACHED, None) if cache is not None and cache.get_seq_length() else None


def check_cache(name: str, cache: Any) -> None:
    """Raise ValueError if the layers of a cache cannot differ in length."""
    from transformers import DynamicCache

    if cache is not None and not isinstance(cache, DynamicCache):
        raise ValueError(
            f"{name} drops tokens inside the language model, and the layers of a {type(cache).__name__} have one "
            "length: leave cache_implementation and past_key_values out, or give a DynamicCache"
        )


def check_generate(name: str, model: Any, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if a call of generate asks for what caches with layers of several lengths cannot do."""
    config = arguments.get("generation_config")
    settings = (config, getattr(model, "generation_config", None))
    for option, good in (
        # Released Gemma 3 asks for "hybrid", which transformers leaves out by itself.
        ("cache_implementation", (None, "dynamic", "dynamic_full", "offloaded", "hybrid")),
        ("assistant_model", (None,)),
        ("prompt_lookup_num_tokens", (None,)),
        ("prefill_chunk_size", (None,)),
        ("guidance_scale", (None, 1.0)),  # a second prompt that nobody laid out
    ):
        value = arguments.get(option)
        if value is None:
            value = next((v for one in settings if (v := getattr(one, option, None)) is not None), None)
        if not any(value is one or value == one for one in good):
            shown = type(value).__name__ if option == "assistant_model" else repr(value)
            raise ValueError(
                f"{name} drops tokens inside the language model, so that its layers' caches differ in length, and "
                f"{option}={shown} cannot take that: leave it out, or choose a method that acts before"
            )
    check_cache(name, arguments.get("past_key_values"))
