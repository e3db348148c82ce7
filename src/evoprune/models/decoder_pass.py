"""One forward of a language model that drops tokens: what its layers get in place of the arguments of all tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .decoder_cache import Columns, Memory
from .decoder_layout import Sequences
from .decoder_masks import causal, for_backend, shortened


class Pass:
    """One forward of the language model.

    Attributes
    ----------
    rows
        The sequences as the next layer gets them.
    alive
        int64 (B, W) which places of the call they are, -1 for padding; None while all are there.
    drops
        For each layer that drops how many tokens each block keeps.
    real
        bool (B, past + W) on the CPU: which columns, cached and new, are no padding of the caller's.
    ranked
        Whether tokens without positions of the caller's are numbered without padding.
    """

    def __init__(
        self,
        rows: Sequences,
        drops: dict[int, list[int]],
        real: Tensor,
        memory: Memory | None,
        backend: str,
        ranked: bool,
    ):
        self.rows, self.drops, self.real, self.memory = rows, drops, real, memory
        self.backend, self.ranked = backend, ranked
        self.batch, self.width = len(rows.pads), rows.width
        self.past = real.shape[1] - rows.width
        self.alive: Tensor | None = None
        self.seen: dict[int, Columns] = {}  # of the layers that get less than the whole call
        self.plain = bool(real.all())
        self.known: dict[Any, Any] = {}  # arguments made once for all layers that get the same rows

    def once(self, key: Any, make: Callable[[], Any], *held: Any) -> Any:
        """Return what `make` gives, made once for all layers with equal `key`; `held` are those whose ids are in it."""
        if key not in self.known:
            self.known[key] = make(), held
        return self.known[key][0]


def arguments_of(
    run: Pass, layer: int, stored: Columns | None, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return a layer's keyword arguments for the rows that are left, and the mask of the keys that it has."""
    cache, given, device = kwargs.get("past_key_values"), kwargs.get("attention_mask"), hidden.device
    window = getattr(cache.layers[layer], "sliding_window", None) if cache is not None and cache.layers else None
    same = device, id(run.alive), id(stored)
    everything = torch.arange(run.width, device=device).expand(run.batch, -1)
    places = everything if run.alive is None else run.alive.to(device)
    asking = torch.where(places < 0, -1, places + run.past)
    earlier = run.once(
        ("earlier", id(stored)),
        lambda: Columns.first(run.batch, run.past) if stored is None else stored.upto(run.past),
        stored,
    )
    changed = dict(kwargs)
    if run.alive is not None:
        run.seen[layer] = run.once(("seen", *same), lambda: earlier.then(asking, run.rows.ragged), run.alive, stored)
        for name in ("position_embeddings", "position_ids", "cache_position"):
            if kwargs.get(name) is not None:
                changed[name] = _cut(run, name, kwargs[name], places)
    changed["attention_mask"] = run.once(
        ("mask", *same, id(given), window),
        lambda: _mask(run, given, places, asking, earlier.recent(window).then(asking, run.rows.ragged), window, hidden),
        run.alive, stored, given,
    )  # fmt: skip
    return changed


def needs_no_mask(run: Pass, stored: Columns, cache: Any, layer: int) -> bool:
    """Whether one new token may look at all that a layer has stored."""
    window = getattr(cache.layers[layer], "sliding_window", None)
    far = window is not None and run.real.shape[1] > window
    return run.alive is None and run.width == 1 and not stored.padded and not far and run.plain


def _mask(
    run: Pass, given: Any, places: Tensor, asking: Tensor, keys: Columns, window: int | None, hidden: Tensor
) -> Tensor | None:
    total = run.real.shape[1]
    if isinstance(given, Tensor) and given.ndim == 4 and given.shape[2:] == (run.width, total):
        return shortened(given.to(hidden.device), places, keys.values)
    far = window is not None and total > window
    if not keys.padded and not far and run.plain and (places.shape[1] == 1 or not run.past):
        return None  # plainly causal
    real = run.real.to(hidden.device)
    mask = causal(asking, keys.values, real, window)
    seen = real.gather(1, keys.values.clamp(min=0)) & (keys.values >= 0)
    return for_backend(mask, run.backend, hidden.dtype, seen)


def _cut(run: Pass, name: str, value: Any, places: Tensor) -> Any:
    """Return an argument that has one entry a place for the places that are left."""
    if isinstance(value, tuple):
        return tuple(_cut(run, name, one, places) for one in value)
    return run.once((name, id(value), id(run.alive), places.device), lambda: _taken(run, name, value, places), value)


def _taken(run: Pass, name: str, value: Tensor, places: Tensor) -> Tensor:
    index = places.clamp(min=0).to(value.device)
    if name == "cache_position":
        return value[-places.shape[1] :]
    if name == "position_ids":
        axes = value.shape[:-2]
        return value.expand(*axes, run.batch, -1).gather(-1, index.expand(*axes, -1, -1))
    wide = value.expand(*value.shape[:-3], run.batch, -1, -1)
    return wide.gather(-2, index[..., None].expand(*wide.shape[:-2], -1, wide.shape[-1]))


def deepstack(original: Callable[..., Tensor], current: Callable[[], Pass | None]) -> Callable[..., Tensor]:
    """Let features that enter between layers (Qwen3-VL) find the tokens that are left of theirs."""

    def process(hidden: Tensor, visual: Tensor, embeds: Tensor) -> Tensor:
        run = current()
        if run is None or run.alive is None:
            return original(hidden, visual, embeds)
        visual, alive = visual.to(hidden.device), run.alive.to(hidden.device)
        rank = visual.flatten().cumsum(0).view(visual.shape) - 1
        left = visual.gather(1, alive.clamp(min=0)) & (alive >= 0)
        return original(hidden, left, embeds[rank.gather(1, alive.clamp(min=0))[left].to(embeds.device)])

    return process
