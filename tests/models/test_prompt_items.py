"""Which row and picture the tower's items belong to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evoprune.models.facts import Block, Facts
from evoprune.models.prompt_items import items_of

TILES = [Block(0, 2, 9, 3), Block(0, 11, 3, 1), Block(1, 0, 6, 2), Block(1, 7, 4, 4, "video"), Block(2, 0, 3, 1)]


def facts(blocks: list[Block]) -> Facts:
    return Facts(blocks, torch.zeros(3, 20, dtype=torch.int64), torch.ones(3, 20, dtype=torch.bool))


def family(**settings: bool) -> Any:
    return SimpleNamespace(**{"frames_as_images": False, "repeats_rows": False} | settings)


def found(number: int, modality: Any = "image", blocks: list[Block] = TILES, **settings: bool) -> tuple[list[int], ...]:
    items = items_of(facts(blocks), modality, number, family(**settings))
    return [one.row for one in items], [one.picture for one in items]


def test_tiles_of_a_segment_are_one_picture_and_frames_are_not() -> None:
    assert found(7) == ([0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 2, 2, 3])
    assert found(4, "video") == ([1, 1, 1, 1], [0, 1, 2, 3])


def test_segments_that_adjoin_are_one_picture_where_pictures_have_marks() -> None:
    assert found(7, frames_as_images=True)[1] == [0, 0, 0, 0, 1, 1, 2]


def test_beams_repeat_segments_or_rows() -> None:
    assert found(14) == ([0] * 8 + [1] * 4 + [2] * 2, [0] * 6 + [1] * 2 + [2] * 4 + [3] * 2)
    assert found(14, repeats_rows=True) == ([0] * 8 + [1] * 4 + [2] * 2, [0, 0, 0, 1] * 2 + [2] * 4 + [3] * 2)


def test_pictures_in_the_cache_are_not_counted() -> None:
    blocks = [Block(0, 0, 3, 1, "image", False), Block(0, 5, 3, 2)]
    assert found(2, blocks=blocks) == ([0, 0], [0, 0])


@pytest.mark.parametrize(("number", "blocks"), [(6, TILES), (8, TILES), (1, [])])
def test_pictures_that_the_prompt_does_not_hold_are_refused(number: int, blocks: list[Block]) -> None:
    with pytest.raises(ValueError, match=f"{number} images or tiles were encoded and the prompt has a place for"):
        found(number, blocks=blocks)
