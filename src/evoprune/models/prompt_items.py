"""Which row of a prompt, and which picture of it, each item of the tower belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from .base import Family, Modality
from .facts import Block, Facts


class Item(NamedTuple):
    """Where a picture, tile or frame that the tower sees belongs: the row of the prompt, and a picture's number."""

    row: int
    picture: int


def items_of(facts: Facts, modality: Modality, number: int, family: Family) -> list[Item]:
    """Return where each of the `number` items of a call of the tower belongs, in the tower's order.

    The tiles of one segment are one picture, and so are segments without anything between them in families that write
    marks around a picture. Frames are pictures of their own. Beams repeat every segment, or all segments of a row, and
    the copies of a picture have its number.

    Raises
    ------
    ValueError
        The prompt does not hold these items, nor whole copies of its own.
    """
    blocks = [block for block in facts.blocks if block.modality == modality and block.new]
    expected = sum(block.items for block in blocks)
    if not expected or number % expected:
        raise ValueError(
            f"{number} {modality}s or tiles were encoded and the prompt has a place for {expected}: relevance to the "
            "question needs all of them in the prompt that they come with"
        )
    items = _numbered(blocks, family.frames_as_images)
    if family.repeats_rows:
        copied = [[one for _, each in group for one in each] for _, group in groupby(items, key=lambda pair: pair[0])]
    else:
        copied = [each for _, each in items]
    return [one for group in copied for one in group * (number // expected)]


def _numbered(blocks: Sequence[Block], marked: bool) -> list[tuple[int, list[Item]]]:
    """Return the row and the items of each block."""
    found: list[tuple[int, list[Item]]] = []
    picture, end = -1, (-1, -1)
    for block in blocks:
        goes_on = marked and end == (block.row, block.start)
        picture += not goes_on
        items = []
        for item in range(block.items):
            picture += item > 0 and block.modality == "video"
            items.append(Item(block.row, picture))
        found.append((block.row, items))
        end = block.row, block.start + block.tokens
    return found
