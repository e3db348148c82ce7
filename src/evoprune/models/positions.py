"""Original positions: each survivor keeps, in the language model, the position of the placeholder it stands for.

The prompt that runs is short and numbered 0, 1, 2, ... by transformers; a pre-hook of the language model replaces
these numbers, when the survivors are known. Text behind an image keeps its original position, and so does what is
generated. No generation path has to know about it: static caches, beams and chunks only see more distant numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .base import Family
from .prompt import Layout, Slot


def original_columns(layout: Layout, offsets: Sequence[tuple[Slot, Tensor]]) -> Tensor:
    """Return the column of the prompt with all placeholders that each short column stands for, int64 (B, S).

    `offsets` (K,) are those of each slot's survivors (`Family.offsets`); the columns of other images, which are in the
    cache already, keep numbers that nobody reads.
    """
    device = offsets[0][1].device if offsets else torch.device("cpu")
    columns = layout.original.to(device, copy=True)
    for slot, places in offsets:
        columns[slot.row, slot.short : slot.short + len(places)] = slot.long + places
    return columns


def original_table(layout: Layout, columns: Tensor) -> Tensor:
    """Return the original position of each short column, int64 (B, S), for `columns` of `original_columns`."""
    device = columns.device
    begin = layout.original.to(device).gather(1, layout.first.to(device)[:, None])
    given = layout.position_ids
    if given is None:
        return (columns - begin).clamp(min=0)
    given = given.to(device).expand(columns.shape[0], -1)
    if int(columns.max()) < given.shape[1]:
        return given.gather(1, columns)
    return given.gather(1, begin) + (columns - begin).clamp(min=0)  # positions of a prompt that was short already


class Positions:
    """Translates the position ids of the call in progress; inactive where no image was dropped from."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.generating = False
        self.table: Tensor | None = None  # (B, S) or (3, B, S) of the prompt, found when the survivors are known
        self.after: Tensor | None = None  # (B,) or (3, B): what the first token behind the prompt gets

    def begin(self, layout: Layout | None, generating: bool = False) -> None:
        self.layout, self.generating = layout, generating
        self.table = self.after = None

    def translate(self, ranks: Tensor, batch: int) -> Tensor:
        """Return original positions for `ranks` (B' or 1, Q): places in the short row, beyond its end continued.

        The result is (B, Q), or (3, B, Q) where the table has three axes.
        """
        if self.layout is None or self.table is None or self.after is None:
            return ranks
        device = ranks.device
        table, after = self.table.to(device), self.after.to(device)
        first = self.layout.first.to(device)
        repeat = batch // table.shape[-2]
        if repeat > 1:  # beams and several answers a prompt
            table, after = table.repeat_interleave(repeat, -2), after.repeat_interleave(repeat, -1)
            first = first.repeat_interleave(repeat, 0)
        width = table.shape[-1]
        column = ranks.expand(batch, -1) + first[:, None]
        inside = table.gather(-1, column.clamp(max=width - 1).expand(*table.shape[:-1], -1))
        return torch.where(column < width, inside, after[..., None] + column - width)


def install_positions(family: Family, positions: Positions, resolve: Any, stack: ExitStack) -> None:
    """Hook the language model; `resolve(past, rows)` fills `positions.table` before the first translation."""

    def before_language_model(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if positions.layout is None:
            return None
        embeds = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        batch, length = embeds.shape[:2]
        cache = kwargs.get("past_key_values")
        ranks = kwargs.get("position_ids")
        past = 0
        if cache is not None and (positions.table is None or ranks is None):  # not while decoding: it may wait
            past = int(cache.get_seq_length())
        if positions.table is None:
            resolve(past, batch)
        if ranks is None:
            first = positions.layout.first.to(embeds.device)
            columns = torch.arange(past, past + length, device=embeds.device)[None]
            ranks = (columns - first.repeat_interleave(batch // len(first))[:, None]).clamp(min=0)
        changed = {**kwargs, "position_ids": positions.translate(ranks, batch)}
        if kwargs.get("attention_mask") is None and cache is None:
            # Without mask and cache transformers takes gaps in position_ids for the borders of packed sequences.
            changed["attention_mask"] = torch.ones(batch, length, dtype=torch.long, device=embeds.device)
        return args, changed

    stack.callback(family.language_model.register_forward_pre_hook(before_language_model, with_kwargs=True).remove)
