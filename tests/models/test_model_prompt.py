"""Rewriting of prompts, against a plain loop over tokens, on random batches."""

from __future__ import annotations

import random

import pytest
import torch

from evoprune.models.base import Count, Segment
from evoprune.models.prompt import Layout, rewrite, shorten
from evoprune.models.segments import find_counts, runs_of, uniform_segments

IMAGE, COUNT = 4, Count(6, 2)


def shortened(ids: torch.Tensor, mask: torch.Tensor, left: bool) -> Layout:
    places = ids == IMAGE
    return shorten(places, mask, uniform_segments(runs_of(places), Segment(COUNT), "image", True), left)


def random_row(rng: random.Random) -> list[int]:
    row: list[int] = []
    for _ in range(rng.randint(1, 6)):
        row += [IMAGE] * COUNT.full if rng.random() < 0.4 else [rng.randint(5, 9) for _ in range(rng.randint(1, 4))]
    return row


def literal(row: list[int]) -> list[int]:
    """Return the columns of a row that stay."""
    stay, seen = [], 0
    for column, token in enumerate(row):
        if token == IMAGE:
            if seen % COUNT.full < COUNT.short:
                stay.append(column)
            seen += 1
        else:
            stay.append(column)
    return stay


@pytest.mark.parametrize("left", [True, False])
def test_random_batches_are_shortened_as_a_loop_does_it(left: bool) -> None:
    rng = random.Random(0)
    for _ in range(300):
        rows = [random_row(rng) for _ in range(rng.randint(1, 4))]
        width = max(map(len, rows)) + rng.randint(0, 2)
        ids = torch.full((len(rows), width), 0)
        mask = torch.zeros_like(ids)
        starts = [width - len(row) if left else 0 for row in rows]
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            ids[i, start : start + len(row)] = torch.tensor(row)
            mask[i, start : start + len(row)] = 1
        layout = shortened(ids, mask, left)
        short = rewrite(layout, {"input_ids": ids, "labels": ids, "attention_mask": mask, "kept": width})
        assert short["kept"] == width
        images = 0
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            stay = literal(row)
            inside = layout.mask[i].bool()
            assert layout.columns[i][inside].tolist() == [start + column for column in stay]
            assert short["input_ids"][i][inside].tolist() == [row[column] for column in stay]
            assert short["labels"][i][~inside].eq(-100).all() and short["attention_mask"].equal(layout.mask)
            assert not (short["input_ids"][i][~inside] == IMAGE).any()
            assert layout.ranks()[i][inside].tolist() == list(range(len(stay)))
            for slot in (slot for slot in layout.slots if slot.row == i):
                assert ids[i, slot.long : slot.long + COUNT.full].eq(IMAGE).all()
                assert int(layout.columns[i, slot.short]) == slot.long
                images += 1
        assert images == int((ids == IMAGE).sum()) // COUNT.full
        assert layout.columns.shape[1] == max(len(literal(row)) for row in rows)


def test_masked_columns_inside_a_row_stay_masked() -> None:
    ids = torch.tensor([[0, 5, 6, *[IMAGE] * 6, 7, 0]])
    mask = torch.tensor([[0, 1, 0, *[1] * 6, 1, 0]])
    layout = shortened(ids, mask, left=True)
    assert layout.columns.tolist() == [[1, 2, 3, 4, 9]] and layout.mask.tolist() == [[1, 0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("runs", "images", "cached", "short", "expected"),
    [
        ([6], 1, False, False, "long"),
        ([2], 1, False, False, "short"),
        ([6], 3, False, False, "short"),  # three adjacent images, short already
        ([12, 6], 3, False, False, "long"),
        ([6], None, False, False, "long"),
        ([6], None, False, True, "short"),
        ([4], None, False, False, "short"),
        ([1], None, False, False, "none"),
        ([], None, False, False, "none"),
        ([], 0, False, False, "none"),
        ([6, 6], 1, True, False, "long"),
        ([2, 2], 1, True, False, "short"),
    ],
)
def test_what_placeholders_stand_for(
    runs: list[int], images: int | None, cached: bool, short: bool, expected: str
) -> None:
    assert find_counts(runs, COUNT, images, cached, short) == expected


@pytest.mark.parametrize(("runs", "images"), [([5], 1), ([6, 1], 1), ([6, 6], 1), ([6], 2), ([], 1), ([2, 2, 2], 1)])
def test_what_fits_nothing_is_refused(runs: list[int], images: int) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        find_counts(runs, COUNT, images, False, False)


def test_runs() -> None:
    assert runs_of(torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]]).bool()) == [[(0, 2), (3, 1)], []]
