"""Which segments the runs of placeholders in a prompt are: pure functions of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from .counts import Count, Modality, Segment


class Found(NamedTuple):
    """One segment found in the prompt as it was given: its row and first column; `surplus` if it is still long."""

    row: int
    column: int
    segment: Segment
    modality: Modality = "image"
    surplus: bool = True


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
