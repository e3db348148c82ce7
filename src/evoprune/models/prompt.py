"""Drops the surplus placeholders of each image from a prompt and packs its rows anew: pure functions of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .base import Count, Modality, Segment

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


class Found(NamedTuple):
    """One segment found in the prompt as it was given: its row and first column; `surplus` if it is still long."""

    row: int
    column: int
    segment: Segment
    modality: Modality = "image"
    surplus: bool = True


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


def find_counts(runs: Sequence[int], count: Count, images: int | None, cached: bool, prefer_short: bool) -> str:
    """Return "long", "short" or "none" for the runs of adjacent placeholders of a batch.

    `images` is how many pictures come along, None if none do (placeholders that fit no image are then text, which a
    model may well have generated); `cached` says that earlier images may be in the cache.

    Raises
    ------
    ValueError
        The runs fit neither number of placeholders, or another number of images.
    """
    fits = {"long": count.full, "short": count.short}
    if images is None:
        order = ("short", "long") if prefer_short else ("long", "short")
        return next((kind for kind in order if any(run % fits[kind] == 0 for run in runs)), "none")
    if not runs and images:
        raise ValueError(
            f"the prompt holds no image placeholder but {images} images were given: expand the prompt with the "
            "model's own processor"
        )
    found = {kind: sum(runs) // n for kind, n in fits.items() if all(run % n == 0 for run in runs)}
    if not found:
        wrong = next(run for run in runs if any(run % n for n in fits.values()))
        raise ValueError(
            f"a run of {wrong} image placeholders fits neither {count.full} (an image of this model) nor "
            f"{count.short} (what the pruner leaves of it): expand the prompt with the model's own processor"
        )
    exact = [kind for kind, number in found.items() if number == images]
    earlier = [kind for kind, number in found.items() if cached and number > images]
    if not exact and not earlier:
        raise ValueError(
            f"the prompt holds {sum(runs)} image placeholders but {images} images of {count.full} (or, pruned, "
            f"{count.short}) were given: let placeholders and images match"
        )
    return (exact or earlier)[0] if runs else "none"


def runs_of(is_image: Tensor) -> list[list[tuple[int, int]]]:
    """Return for each row of bool (B, L) its runs of True as (start, length)."""
    rows = []
    for row in is_image.tolist():
        runs, column = [], 0
        for value, group in groupby(row):
            length = sum(1 for _ in group)
            if value:
                runs.append((column, length))
            column += length
        rows.append(runs)
    return rows


def uniform_segments(
    rows: Sequence[Sequence[tuple[int, int]]], segment: Segment, modality: Modality, surplus: bool
) -> list[Found]:
    """Return the segments of runs that hold whole multiples of the same one; others are text."""
    size = segment.count.full if surplus else segment.count.short
    return [
        Found(row, column, segment, modality, surplus)
        for row, runs in enumerate(rows)
        for start, length in runs
        if length % size == 0
        for column in range(start, start + length, size)
    ]


def assign_segments(
    rows: Sequence[Sequence[tuple[int, int]]],
    given: Sequence[Segment],
    earlier: Sequence[Sequence[Segment]],
    modality: Modality,
) -> list[Found]:
    """Return where segments of different lengths stand: for each row those from `earlier` turns, then the next given.

    Raises
    ------
    ValueError
        The runs are not made of these segments, neither long nor short.
    """
    for surplus in (True, False):
        found = _assign(rows, given, earlier, modality, surplus)
        if found is not None:
            return found
        found = _assign(rows, given, [()] * len(rows), modality, surplus)  # the new ids alone
        if found is not None:
            return found
    counts = [segment.count for segment in given]
    raise ValueError(
        f"runs of {[length for runs in rows for _, length in runs]} {modality} placeholders do not fit the "
        f"{[count.full for count in counts]} that the {modality}s given have (or, pruned, "
        f"{[count.short for count in counts]}): expand the prompt with the model's own processor"
    )


def _assign(
    rows: Sequence[Sequence[tuple[int, int]]],
    given: Sequence[Segment],
    earlier: Sequence[Sequence[Segment]],
    modality: Modality,
    surplus: bool,
) -> list[Found] | None:
    left, found = list(given), []
    for row, runs in enumerate(rows):
        before = list(earlier[row]) if row < len(earlier) else []
        for start, length in runs:
            column = start
            while column < start + length:
                queue = before or left
                if not queue:
                    return None
                segment = queue.pop(0)
                found.append(Found(row, column, segment, modality, surplus))
                column += segment.count.full if surplus else segment.count.short
            if column != start + length:
                return None
        if before:
            return None
    return None if left else found


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
