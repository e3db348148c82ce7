"""Scenes made from real pixels: coloured handwritten digits on crops of photographs, and the patches they cover.

A scene is a function of (split, seed, index) and the pixel archive alone, so that every machine draws the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .pixels import SPLITS, Pixels, Split, pixels

SIDE = 112  # px: the tower's picture size
PATCH = 8  # px
GRID = SIDE // PATCH
MOST_GLYPHS = 5
GLYPH_SIDES = (24, 40)  # px, smallest and largest
MOST_AREA = 0.30  # share of the picture that glyph boxes may cover
COLOURS = {
    "red": (222, 38, 38),
    "green": (36, 170, 56),
    "blue": (48, 84, 232),
    "yellow": (248, 222, 40),
    "pink": (240, 90, 200),
    "cyan": (50, 214, 222),
    "white": (246, 246, 246),
}
COLOUR_NAMES = tuple(COLOURS)
INK_SHARE = 0.06  # a patch belongs to a glyph where at least this share of its pixels is ink


@dataclass(frozen=True)
class Glyph:
    """One digit of a scene: its value, the index of its colour and its box in pixels."""

    digit: int
    colour: int
    left: int
    top: int
    side: int

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box (x, y) in pixels."""
        return self.left + self.side / 2, self.top + self.side / 2


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes
    ----------
    picture
        uint8 (112, 112, 3), RGB.
    glyphs
        One to five digits; no two have the same colour, no two boxes overlap.
    owner
        int64 (14, 14): index of the glyph whose ink the patch shows, -1 for background.
    """

    picture: np.ndarray
    glyphs: tuple[Glyph, ...]
    owner: np.ndarray

    def image(self) -> Image.Image:
        """The picture as a PIL image."""
        return Image.fromarray(self.picture)


def background(source: Pixels, rng: np.random.Generator) -> np.ndarray:
    """A random square of a random photograph, scaled: float32 (112, 112, 3)."""
    photo = source.photos[rng.integers(len(source.photos))]
    limit = min(photo.shape[:2])
    side = int(rng.integers(min(56, limit), min(limit, 2 * SIDE) + 1))
    top = int(rng.integers(photo.shape[0] - side + 1))
    left = int(rng.integers(photo.shape[1] - side + 1))
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    crop = crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop).astype(np.float32)


def _sides(count: int, rng: np.random.Generator) -> list[int]:
    low, high = GLYPH_SIDES
    while True:
        sides = rng.integers(low, high + 1, count)
        if (sides**2).sum() <= MOST_AREA * SIDE * SIDE:
            return [int(side) for side in sides]


def _easy_sides(difficulty: float, rng: np.random.Generator) -> list[int]:
    """As many sides as fit, none larger than the difficulty allows."""
    low, high = GLYPH_SIDES
    sides: list[int] = []
    while len(sides) < MOST_GLYPHS:
        side = int(rng.integers(low, low + round(difficulty * (high - low)) + 1))
        if sum(s * s for s in [*sides, side]) > MOST_AREA * SIDE * SIDE:
            break
        sides.append(side)
    return sides


def _boxes(sides: list[int], difficulty: float, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Boxes (left, top, side) that do not overlap, in random places: off the patch grid by `difficulty` of a patch."""
    step, off = (PATCH, difficulty * (PATCH - 1)) if difficulty < 1 else (1, 0.0)
    while True:
        boxes: list[tuple[int, int, int]] = []
        for side in sorted(sides, reverse=True):
            for _ in range(20):
                places = rng.integers(0, (SIDE - side) // step + 1, 2) * step
                if off:
                    places = np.minimum(places + rng.integers(0, round(off) + 1, 2), SIDE - side)
                left, top = int(places[0]), int(places[1])
                if all(left >= x + s or x >= left + side or top >= y + s or y >= top + side for x, y, s in boxes):
                    boxes.append((left, top, side))
                    break
        if len(boxes) == len(sides):
            return boxes


def ink_and_halo(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Ink and halo of a digit, float32 (side, side) in [0, 1]."""
    glyph = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.clip((np.asarray(glyph, dtype=np.float32) - 70) / 90, 0, 1)
    wide = Image.fromarray((ink * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
    halo = np.asarray(wide.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32) / 255
    return ink, halo


def _draw(canvas: np.ndarray, glyph: Glyph, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint a glyph in place and return its ink, so that patches can be attributed."""
    ink, halo = ink_and_halo(image, glyph.side)
    place = (slice(glyph.top, glyph.top + glyph.side), slice(glyph.left, glyph.left + glyph.side))
    colour = np.asarray(COLOURS[COLOUR_NAMES[glyph.colour]], dtype=np.float32) + rng.normal(0, 8, 3)
    region = canvas[place]
    region *= 1 - 0.65 * halo[..., None]
    region += ink[..., None] * (colour - region)
    return ink


def _owners(inks: np.ndarray) -> np.ndarray:
    """Patch owners (14, 14) from the ink of every glyph (n, 112, 112)."""
    share = inks.reshape(len(inks), GRID, PATCH, GRID, PATCH).mean((2, 4))
    best = share.argmax(0)
    return np.where(share.max(0) >= INK_SHARE, best, -1).astype(np.int64)


def scene(
    split: Split, seed: int, index: int, *, photograph: np.ndarray | None = None, difficulty: float | None = None
) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    split
        Which digits and photo regions may be used.
    seed, index
        Number of the stream and of the scene in it.
    photograph
        uint8 (height, width, 3): put the digits on this whole photograph, scaled, instead of on a crop.

    difficulty
        For training's first scenes, 0 to 1: as many glyphs as fit, from all 24 px on the patch grid (0) to any side
        anywhere (1). None draws what is measured: one to five glyphs, any side, anywhere.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        For an unknown split.
    """
    source = pixels(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    if photograph is None:
        canvas = background(source, rng)
    else:
        whole = Image.fromarray(photograph).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        canvas = np.asarray(whole).astype(np.float32)
    sides = _sides(int(rng.integers(1, MOST_GLYPHS + 1)), rng) if difficulty is None else _easy_sides(difficulty, rng)
    count = len(sides)
    boxes = _boxes(sides, 1.0 if difficulty is None else difficulty, rng)
    order = rng.permutation(count)
    colours = rng.permutation(len(COLOURS))[:count]
    values = rng.permutation(10)[:count] if rng.random() < 0.75 else rng.integers(0, 10, count)
    glyphs, inks = [], np.zeros((count, SIDE, SIDE), dtype=np.float32)
    for number, box in enumerate(order):
        left, top, side = boxes[box]
        glyph = Glyph(int(values[number]), int(colours[number]), left, top, side)
        members = np.flatnonzero(source.labels == glyph.digit)
        image = source.digits[members[rng.integers(len(members))]]
        inks[number, top : top + side, left : left + side] = _draw(canvas, glyph, image, rng)
        glyphs.append(glyph)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(glyphs), _owners(inks))
