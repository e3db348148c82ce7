"""The pictures show what the maps say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evoprune.show import Row, regions, sheet, survivors
from evoprune.show.regions import DROPPED, LINE

SIDE, PATCH = 4, 8


@pytest.fixture
def picture() -> Image.Image:
    """Sixteen patches of sixteen colours."""
    colours = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3) * 5
    return Image.fromarray(colours.repeat(PATCH, 0).repeat(PATCH, 1))


def middle(image: Image.Image, index: int) -> np.ndarray:
    """The middle of a patch, beside its dot."""
    row, column = divmod(index, SIDE)
    return np.asarray(image)[row * PATCH + PATCH - 2, column * PATCH + PATCH - 2]


def test_survivors_keep_their_pixels_and_others_are_darker(picture: Image.Image) -> None:
    found = survivors(picture, [0, 5], SIDE, patch=PATCH)
    assert found.size == picture.size
    assert np.array_equal(middle(found, 5), middle(picture, 5))
    assert (middle(found, 15) < middle(picture, 15)).all()


def test_a_region_has_the_mean_colour_of_its_patches(picture: Image.Image) -> None:
    sources = np.array([0] * 8 + [1] * 8)
    found = regions(picture, sources, SIDE, patch=PATCH)
    for index, members in ((0, range(8)), (15, range(8, 16))):
        mean = np.mean([middle(picture, member).astype(float) for member in members], axis=0)
        assert np.abs(middle(found, index) - mean).max() <= 1


def test_lines_stand_between_regions_only(picture: Image.Image) -> None:
    found = np.asarray(regions(picture, np.array([0] * 8 + [1] * 8), SIDE, patch=PATCH))
    rows = np.flatnonzero((found == LINE).all(axis=2).all(axis=1))
    assert rows.tolist() == [2 * PATCH]
    assert (found == LINE).all(axis=2).sum() == SIDE * PATCH


def test_dropped_patches_are_dark(picture: Image.Image) -> None:
    sources = np.full(16, -1)
    sources[3] = 0
    found = regions(picture, sources, SIDE, positions=[3], patch=PATCH)
    assert tuple(middle(found, 12)) == DROPPED
    assert np.array_equal(middle(found, 3), middle(picture, 3))


def test_a_picture_without_merges_is_its_patches(picture: Image.Image) -> None:
    found = regions(picture, np.arange(16), SIDE, patch=PATCH)
    for index in range(16):
        assert np.abs(middle(found, index).astype(int) - middle(picture, index)).max() <= 1


def test_wrong_maps_are_refused(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="16 survivors"):
        regions(picture, np.arange(9), SIDE)
    with pytest.raises(ValueError, match="16 survivors"):
        regions(picture, np.full(16, -2), SIDE)
    with pytest.raises(ValueError, match=r"0\.\.15"):
        survivors(picture, [16], SIDE)
    with pytest.raises(ValueError, match=r"0\.\.15"):
        regions(picture, np.arange(16), SIDE, positions=[-1])


def test_sheet_holds_every_panel(picture: Image.Image) -> None:
    page = sheet("title", ("left", "right"), [Row((picture, picture), ("a line",)), Row((picture, picture))])
    assert page.width >= 2 * picture.width and page.height >= 2 * picture.height


def test_sheet_refuses_what_does_not_fit(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="no row"):
        sheet("title", ("one",), [])
    with pytest.raises(ValueError, match="1 panels under 2 headings"):
        sheet("title", ("one", "two"), [Row((picture,))])
