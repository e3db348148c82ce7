"""Clips with what was kept and merged in every frame, as one animated picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .regions import regions, survivors
from .sheet import GROUND, Row, sheet

HEADINGS = ("the clip", "patches that survive", "what each survivor stands for")
FORMATS = (".gif", ".webp")


@dataclass(frozen=True)
class Film:
    """A clip, its maps, and what is written under it.

    Attributes
    ----------
    frames
        uint8 (F, H, W, 3).
    sources
        Ints (F, side * side), a row a frame: which survivor stands for each patch, -1 where none does.
    positions
        Ints (F, K), or F rows of different lengths: raster indices of the survivors.
    lines
        Lines of text.
    """

    frames: np.ndarray
    sources: Any
    positions: Any
    lines: Sequence[str] = field(default_factory=tuple)

    def panels(self, number: int, patch: int) -> list[Image.Image]:
        """The frame, its survivors and their regions, each ``side * patch`` pixels a side."""
        picture, sources = Image.fromarray(self.frames[number]), np.asarray(self.sources[number])
        side, positions = isqrt(sources.size), self.positions[number]
        return [
            picture.resize((side * patch, side * patch), Image.Resampling.BICUBIC),
            survivors(picture, positions, side, patch=patch),
            regions(picture, sources, side, positions=positions, patch=patch),
        ]


def animation(title: str, films: Sequence[Film], *, size: int = 220) -> list[Image.Image]:
    """Return one page for each time step: all films side by side in time, a row a film.

    A film that ends before the others stands still on its last frame.

    Parameters
    ----------
    size
        Pixels a side of a panel, rounded down to whole patches.

    Raises
    ------
    ValueError
        There is no film or no frame, or a film's maps do not fit its frames.
    """
    for film in films:
        count = len(film.frames)
        if not count or len(film.sources) != count or len(film.positions) != count:
            raise ValueError(
                f"a film has {count} frames, {len(film.sources)} source maps and {len(film.positions)} rows of "
                "positions: give one of each for every frame"
            )
    length = max((len(film.frames) for film in films), default=0)
    pages = []
    for time in range(length):
        rows = []
        for film in films:
            number = min(time, len(film.frames) - 1)
            patch = max(1, size // isqrt(len(film.sources[number])))
            step = f"frame {number + 1} of {len(film.frames)}"
            rows.append(Row(film.panels(number, patch), (*film.lines, step)))
        pages.append(sheet(title, HEADINGS, rows))
    if not pages:
        raise ValueError("there is no film to draw: give at least one")
    width, height = max(page.width for page in pages), max(page.height for page in pages)
    return [_on_ground(page, width, height) for page in pages]


def save_animation(pages: Sequence[Image.Image], path: str | os.PathLike[str], *, milliseconds: int = 500) -> None:
    """Write the pages as an animated GIF or WebP that begins anew at its end.

    Parameters
    ----------
    path
        A name that ends in ``.gif`` or ``.webp``.
    milliseconds
        How long each page is shown, at least 20.

    Raises
    ------
    ValueError
        Another ending, no page, or a time that viewers do not follow.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"{path} has the ending {ending!r}: give a name that ends in {' or '.join(FORMATS)}")
    if not pages:
        raise ValueError("there is no page to write: give at least one")
    if milliseconds < 20:
        raise ValueError(f"milliseconds={milliseconds} is too fast for viewers: give at least 20")
    options: dict[str, Any] = {"quality": 85, "method": 4} if ending == ".webp" else {"disposal": 1}
    shown = list(pages) if ending == ".webp" else _of_one_palette(pages)
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=milliseconds, loop=0, **options)


def _of_one_palette(pages: Sequence[Image.Image]) -> list[Image.Image]:
    """The pages in 256 colours, the same for all: still parts stay still, and one search for colours is enough."""
    width, height = max(1, pages[0].width // 3), max(1, pages[0].height // 3)
    some = pages[:: -(-len(pages) // 8)]
    together = Image.new("RGB", (width, height * len(some)))
    for number, page in enumerate(some):
        together.paste(page.resize((width, height), Image.Resampling.NEAREST), (0, number * height))
    palette = together.quantize(256, Image.Quantize.MAXCOVERAGE)  # rare colours too
    return [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]


def _on_ground(page: Image.Image, width: int, height: int) -> Image.Image:
    if page.size == (width, height):
        return page
    whole = Image.new("RGB", (width, height), GROUND)
    whole.paste(page, (0, 0))
    return whole
