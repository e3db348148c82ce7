"""Drops the surplus placeholders of each image from a prompt and packs its rows anew: pure functions of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Modality, Segment
from .segments import Found

# What goes along with input_ids, column by column, and what padding is in it.
FILL = {"inputs_embeds": 0, "attention_mask": 0, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True)
class Slot:
    """One segment in the prompt: its row, and its first placeholder's column before and after."""

    row: int
    long: int
    short: int
    segment: Segment
    modality: Modality = "image"


@dataclass
class Layout:
    """How a long prompt (B, L) maps to a short one (B, S).

    `columns` (B, S) is the long column of each short one, -1 for padding; `first` (B,) is the first column of each
    short row; `spare` (B,) is a column whose id may stand in for padding; `slots` are the images in prompt order.
    """

    columns: Tensor
    first: Tensor
    spare: Tensor
    textless: Tensor  # (B,) bool: rows of nothing but placeholders
    original: Tensor  # (B, S) the column in the prompt with all placeholders, also where the short one was given
    slots: list[Slot]
    long_width: int
    mask: Tensor  # (B, S) long
    ids: Tensor | None = None  # (B, L) as the user gave them
    position_ids: Tensor | None = None  # (B, L) as the user gave them

    @property
    def dropped(self) -> int:
        """Columns by which the prompt got narrower."""
        return self.long_width - self.columns.shape[1]

    def take(self, values: Tensor, fill: int | None = None) -> Tensor:
        """Return `values` (B, L, ...) or (1, L, ...) in the short layout.

        Without `fill` padding takes the row's own spare id: no id comes in that the row did not hold before, which
        a repetition penalty would see.
        """
        columns = self.columns.to(values.device)
        values = values.expand(columns.shape[0], *values.shape[1:])
        padding = columns < 0
        index = torch.where(padding, self.spare.to(values.device)[:, None], columns)
        if values.ndim == 3:
            index, padding = index[..., None].expand(-1, -1, values.shape[2]), padding[..., None]
        picked = values.gather(1, index)
        if fill is not None:
            return picked.masked_fill(padding, fill)
        # A row of placeholders only has no spare id: any other one will do.
        return torch.where(padding & self.textless.to(values.device)[:, None], (picked == 0).to(picked.dtype), picked)

    def ranks(self) -> Tensor:
        """Return (B, S) int64: the place of each column in its row, 0 for padding."""
        places = torch.arange(self.columns.shape[1]) - self.first[:, None]
        return places.masked_fill(self.columns < 0, 0)


def shorten(is_visual: Tensor, mask: Tensor | None, found: Sequence[Found], left: bool) -> Layout:
    """Return the layout that keeps the first placeholders of each segment, as many as it has after pruning.

    Of a segment without surplus (an honest processor wrote it) every placeholder stays. Old padding outside a row's
    first and last unmasked column is dropped, new padding goes to the left or right.
    """
    keep = torch.ones(is_visual.shape, dtype=torch.bool)
    shift = torch.zeros(is_visual.shape, dtype=torch.long)
    for row, column, segment, _, surplus in found:
        full, short = segment.count
        if surplus:
            keep[row, column + short : column + full] = False
        else:
            shift[row, column + short :] += full - short
    rows = []
    for row in range(keep.shape[0]):
        seen = torch.ones_like(keep[row]) if mask is None else mask[row].bool() | is_visual[row]
        inside = seen.nonzero().flatten()
        if len(inside):
            keep[row, : int(inside[0])] = False
            keep[row, int(inside[-1]) + 1 :] = False
        rows.append(keep[row].nonzero().flatten())
    width = max(len(row) for row in rows)
    columns = torch.full((len(rows), width), -1)
    first = torch.zeros(len(rows), dtype=torch.long)
    for row, kept in enumerate(rows):
        first[row] = width - len(kept) if left else 0
        columns[row, int(first[row]) : int(first[row]) + len(kept)] = kept
    short_mask = (columns >= 0).long()
    if mask is not None:
        short_mask *= mask.long().gather(1, columns.clamp(min=0))
    original = columns.clamp(min=0)
    original = original + shift.gather(1, original)
    slots = []
    for row, column, segment, modality, _ in found:
        place = int((columns[row] == column).nonzero()[0])
        slots.append(Slot(row, int(original[row, place]), place, segment, modality))
    spare = (~is_visual).int().argmax(dim=1)
    return Layout(columns, first, spare, is_visual.all(dim=1), original, slots, is_visual.shape[1], short_mask)


def rewrite(layout: Layout, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `inputs` with everything that has one entry a column in the short layout."""
    changed = dict(inputs)
    for name in ("input_ids", *FILL):
        value = changed.get(name)
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == layout.long_width:
            changed[name] = layout.take(value, FILL.get(name))
    changed.pop("cache_position", None)
    picks = changed.get("logits_to_keep")
    if isinstance(picks, Tensor) and picks.ndim == 1:
        changed["logits_to_keep"] = _translate(layout, picks)
    return changed


def _translate(layout: Layout, picks: Tensor) -> Tensor:
    places = torch.full((layout.columns.shape[0], layout.long_width), -1)
    rows, columns = (layout.columns >= 0).nonzero(as_tuple=True)
    places[rows, layout.columns[rows, columns]] = columns
    found = places[:, picks.cpu()]
    if (found < 0).any() or (found != found[:1]).any():
        raise ValueError(
            "logits_to_keep names columns that were dropped or stand elsewhere in each row of the shortened prompt: "
            "give an int, counted from the end"
        )
    return found[0].to(picks.device)
