"""Scenes: what issue and docstrings promise about pictures, splits and labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.tiny import scenes
from evoprune.tiny.pixels import SPLITS, archive, photographs, pixels
from evoprune.tiny.scenes import GLYPH_SIDES, GRID, MOST_AREA, MOST_GLYPHS, PATCH, SIDE, scene

SPLIT = st.sampled_from(SPLITS)


@given(SPLIT, st.integers(0, 2**31), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_scene_keeps_its_promises(split, seed, index):
    drawn = scene(split, seed, index)
    assert drawn.picture.shape == (SIDE, SIDE, 3)
    assert drawn.picture.dtype == np.uint8
    assert 1 <= len(drawn.glyphs) <= MOST_GLYPHS
    assert len({g.colour for g in drawn.glyphs}) == len(drawn.glyphs)
    assert sum(g.side**2 for g in drawn.glyphs) <= MOST_AREA * SIDE**2
    cover = np.zeros((SIDE, SIDE), dtype=int)
    for g in drawn.glyphs:
        assert GLYPH_SIDES[0] <= g.side <= GLYPH_SIDES[1]
        assert min(g.left, g.top) >= 0
        assert max(g.left, g.top) + g.side <= SIDE
        cover[g.top : g.top + g.side, g.left : g.left + g.side] += 1
    assert cover.max() == 1


@given(SPLIT, st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_owners_lie_on_their_glyph(split, index):
    drawn = scene(split, 3, index)
    assert drawn.owner.shape == (GRID, GRID)
    for number, g in enumerate(drawn.glyphs):
        rows, columns = np.nonzero(drawn.owner == number)
        assert len(rows), "every glyph owns at least one patch"
        assert rows.min() * PATCH + PATCH > g.top
        assert rows.max() * PATCH < g.top + g.side
        assert columns.min() * PATCH + PATCH > g.left
        assert columns.max() * PATCH < g.left + g.side


def test_scene_is_a_function_of_its_numbers():
    again = [scene("dev", 1, 5) for _ in range(2)]
    assert np.array_equal(again[0].picture, again[1].picture)
    assert again[0].glyphs == again[1].glyphs
    for other in (scene("dev", 1, 6), scene("dev", 2, 5), scene("test", 1, 5)):
        assert not np.array_equal(again[0].picture, other.picture)


def test_splits_share_no_pixel():
    everything = [pixels(split) for split in SPLITS]
    digits = [{image.tobytes() for image in part.digits} for part in everything]
    assert sum(len(part.digits) for part in everything) == 1797
    for i, one in enumerate(digits):
        for other in digits[i + 1 :]:
            assert not one & other
    for number, photo in enumerate(photographs()):
        regions = [part.photos[number] for part in everything]
        assert np.array_equal(np.concatenate(regions, axis=1), photo), "regions lie side by side"


def test_archive_is_small_and_documented():
    import json

    assert archive().stat().st_size <= 4_000_000
    sources = json.loads(archive().with_suffix(".json").read_text())
    with np.load(archive()) as data:
        named = {s["array"] for s in sources}
        assert named == {key for key in data.files if key != "labels"}
    assert all(s["licence"] and len(s["sha256"]) == 64 for s in sources)


def test_difficulty_zero_lies_on_the_patch_grid():
    for index in range(20):
        drawn = scene("train", 0, index, difficulty=0.0)
        assert len(drawn.glyphs) == MOST_GLYPHS
        assert all((g.side, g.left % PATCH, g.top % PATCH) == (24, 0, 0) for g in drawn.glyphs)


def test_whole_photograph_and_unknown_split():
    assert scene("test", 0, 0, photograph=photographs()[1]).picture.shape == (SIDE, SIDE, 3)
    with pytest.raises(ValueError, match="train, dev, test"):
        scene("valid", 0, 0)


def test_colours_are_far_apart():
    table = np.array(list(scenes.COLOURS.values()), dtype=float)
    gaps = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert gaps[~np.eye(len(table), dtype=bool)].min() > 60
