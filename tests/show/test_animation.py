"""The animated picture plays every frame with its own map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evoprune.show import Film, animation, regions, save_animation, survivors

SIDE, PATCH, FRAMES = 4, 16, 5
SIZE = SIDE * PATCH


def film(frames: int = FRAMES, seed: int = 0, lines: tuple[str, ...] = ("a question", "an answer")) -> Film:
    """Random frames; in frame t the survivors are t and t + 3, each standing for half of the patches."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 40, 60, 3), dtype=np.uint8)
    sources = np.array([(np.arange(SIDE**2) + t) // 8 % 2 for t in range(frames)])
    return Film(pixels, sources, [[t, t + 3] for t in range(frames)], lines)


def holds(page: Image.Image, panel: Image.Image) -> bool:
    """Whether the panel stands somewhere on the page."""
    pixels, wanted = np.asarray(page).astype(int), np.asarray(panel).astype(int)
    first = np.argwhere((pixels == wanted[0, 0]).all(axis=2))
    height, width = wanted.shape[:2]
    return any(
        pixels[y : y + height, x : x + width].shape == wanted.shape
        and (pixels[y : y + height, x : x + width] == wanted).all()
        for y, x in first
    )


def test_every_page_shows_its_frame_with_its_own_map() -> None:
    one = film()
    pages = animation("title", [one], size=SIZE)
    assert len(pages) == FRAMES and len({page.size for page in pages}) == 1
    for number, page in enumerate(pages):
        picture = Image.fromarray(one.frames[number])
        assert holds(page, survivors(picture, one.positions[number], SIDE, patch=PATCH))
        drawn = regions(picture, one.sources[number], SIDE, positions=one.positions[number], patch=PATCH)
        assert holds(page, drawn)
        assert not holds(pages[(number + 1) % FRAMES], drawn)


def test_a_shorter_film_waits_on_its_last_frame() -> None:
    short, long = film(2, seed=1), film(4, seed=2)
    pages = animation("title", [short, long], size=SIZE)
    assert len(pages) == 4
    last = survivors(Image.fromarray(short.frames[1]), short.positions[1], SIDE, patch=PATCH)
    assert [holds(page, last) for page in pages] == [False, True, True, True]


def test_grids_of_several_sizes_and_rows_of_several_lengths() -> None:
    fine = Film(film().frames, np.zeros((FRAMES, 64), int), [[0] * (1 + t) for t in range(FRAMES)])
    pages = animation("title", [film(), fine], size=SIZE)
    assert holds(pages[3], survivors(Image.fromarray(fine.frames[3]), [0], 8, patch=SIZE // 8))


@pytest.mark.parametrize("ending", [".gif", ".webp", ".GIF"])
def test_files_play_all_pages_and_begin_anew(tmp_path: Path, ending: str) -> None:
    pages, file = animation("title", [film()], size=SIZE), tmp_path / f"a{ending}"
    save_animation(pages, file, milliseconds=120)
    with Image.open(file) as written:
        assert written.n_frames == FRAMES and written.size == pages[0].size and written.info["loop"] == 0  # type: ignore[attr-defined]
        for number in range(FRAMES):
            written.seek(number)
            written.load()
            assert written.info["duration"] == 120
            there = np.asarray(written.convert("RGB")).astype(float)
            apart = [np.abs(there - np.asarray(page)).mean() for page in pages]
            assert int(np.argmin(apart)) == number


def test_one_frame_is_a_still_picture(tmp_path: Path) -> None:
    save_animation(animation("title", [film(1)], size=SIZE), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as written:
        assert getattr(written, "n_frames", 1) == 1


def test_maps_that_do_not_fit_are_refused() -> None:
    good = film()
    with pytest.raises(ValueError, match="5 frames, 4 source maps and 5 rows"):
        animation("title", [Film(good.frames, good.sources[:4], good.positions)])
    with pytest.raises(ValueError, match="5 frames, 5 source maps and 2 rows"):
        animation("title", [Film(good.frames, good.sources, good.positions[:2])])
    with pytest.raises(ValueError, match="no film"):
        animation("title", [])


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    pages = animation("title", [film(1)], size=SIZE)
    with pytest.raises(ValueError, match=r"'\.png'.*\.gif or \.webp"):
        save_animation(pages, tmp_path / "a.png")
    with pytest.raises(ValueError, match="no page"):
        save_animation([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match="milliseconds=5 "):
        save_animation(pages, tmp_path / "a.gif", milliseconds=5)
    assert not list(tmp_path.iterdir())
