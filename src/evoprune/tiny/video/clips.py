"""Clips made from real pixels: coloured handwritten digits that come, stay, move or leave over a photograph.

A clip is a function of (split, seed, index), its settings and the pixel archive alone, so that every machine draws the
same one. Every digit keeps to a lane of its own, so that none hides another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..pixels import SPLITS, Pixels, Split, pixels
from ..scenes import COLOUR_NAMES, COLOURS, INK_SHARE, background, ink_and_halo

SIDE = 80  # px: the tower's picture size
PATCH = 8  # px
GRID = SIDE // PATCH
FRAMES = 8  # of a clip that is measured
MOST_MOVERS = 3
SHORTEST_STAY = 4  # frames that every digit is seen for
TRAVEL = 16  # px, the least that a moving digit moves to the left or right
OFF_MIDDLE = 5  # px that a moving digit's centre keeps from the middle line where it starts and where it ends

Box = tuple[int, int] | None


@dataclass(frozen=True)
class Mover:
    """One digit of a clip: value, index of its colour, side in pixels, and its box's (left, top) in every frame.

    The box is None in frames that do not show the digit.
    """

    digit: int
    colour: int
    side: int
    boxes: tuple[Box, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """Numbers of the frames that show it."""
        return tuple(number for number, box in enumerate(self.boxes) if box is not None)

    def centre(self, frame: int) -> tuple[float, float]:
        """Centre (x, y) in pixels in a frame that shows it."""
        left, top = self.boxes[frame] or (0, 0)
        return left + self.side / 2, top + self.side / 2

    @property
    def travel(self) -> float:
        """Pixels to the right from its first frame to its last, negative to the left."""
        return self.centre(self.seen[-1])[0] - self.centre(self.seen[0])[0]

    @property
    def still(self) -> bool:
        """Whether it has the same place in all the frames that show it, which are two at least."""
        return len(self.seen) > 1 and len({self.boxes[frame] for frame in self.seen}) == 1

    @property
    def crosses(self) -> bool:
        """Whether its centre ends on the other side of the middle line than where it began."""
        ends = [self.centre(self.seen[place])[0] - SIDE / 2 for place in (0, -1)]
        return ends[0] * ends[1] < 0


@dataclass(frozen=True)
class Clip:
    """Frames and what is in them.

    Attributes
    ----------
    frames
        uint8 (F, 80, 80, 3), RGB.
    movers
        The digits, each with a value and a colour of its own, in no special order.
    owner
        int64 (F, 10, 10): index of the mover whose ink the patch shows, -1 for background.
    """

    frames: np.ndarray
    movers: tuple[Mover, ...]
    owner: np.ndarray

    def pick(self, numbers: Sequence[int]) -> Clip:
        """The clip of some of its frames; movers that none of them shows are left out."""
        movers = [replace(m, boxes=tuple(m.boxes[number] for number in numbers)) for m in self.movers]
        shown = [number for number, m in enumerate(movers) if m.seen]
        places = np.full(len(movers) + 1, -1)
        places[shown] = np.arange(len(shown))
        picked = np.asarray(numbers)
        return Clip(self.frames[picked], tuple(movers[i] for i in shown), places[self.owner[picked]])


def _stays(count: int, frames: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """First frame and last frame + 1 of every mover; no two begin at once."""
    starts = rng.permutation(frames - SHORTEST_STAY + 1)[:count]
    return [
        (int(s), int(rng.integers(s + SHORTEST_STAY, frames + 1)) if rng.random() < 0.4 else frames) for s in starts
    ]


def _course(side: int, direction: int, least: int, rng: np.random.Generator) -> tuple[int, int]:
    """Left edges at the start and the end of a way in `direction` (1 right, -1 left, 0 none)."""
    if not direction:
        left = int(rng.integers(0, SIDE - side + 1))
        return left, left
    across = rng.random() < 0.5
    while True:
        start, end = (int(edge) for edge in rng.integers(0, SIDE - side + 1, 2))
        if (end - start) * direction < (least if across else TRAVEL):
            continue
        offsets = [edge + side / 2 - SIDE / 2 for edge in (start, end)]
        if min(abs(o) for o in offsets) >= OFF_MIDDLE and (offsets[0] * offsets[1] < 0) == across:
            return start, end


def _directions(count: int, rng: np.random.Generator) -> list[int]:
    """One that moves left in most clips, and something still in half of them."""
    lefts = 1 if rng.random() < 0.8 else int(rng.choice((0, 2)))
    still = rng.random() < 0.5
    rest = [int(still and (number == 0 or rng.random() < 0.5)) for number in range(count)]
    found = [-1] * lefts + [0 if stays else 1 for stays in rest]
    if still and lefts >= count:
        found = [-1] * (count - 1) + [0]
    return found[:count]


def _mover(
    lane: tuple[int, int], stay: tuple[int, int], direction: int, frames: int, least: int, rng: np.random.Generator
) -> tuple[int, tuple[Box, ...]]:
    """Side and boxes of a digit in its lane (top, bottom)."""
    height = lane[1] - lane[0]
    side = int(rng.integers(20, min(height, 30) + 1))
    start, end = _course(side, direction, least, rng)
    top = rng.integers(lane[0], lane[1] - side + 1, 2)
    share = np.clip((np.arange(frames) - stay[0]) / max(1, stay[1] - 1 - stay[0]), 0, 1)
    lefts = np.rint(start + share * (end - start)).astype(int)
    tops = np.rint(top[0] + share * (top[1] - top[0]) * (direction != 0)).astype(int)
    return side, tuple((int(lefts[t]), int(tops[t])) if stay[0] <= t < stay[1] else None for t in range(frames))


def _paint(
    canvas: np.ndarray, box: tuple[int, int], ink: np.ndarray, halo: np.ndarray, colour: np.ndarray
) -> np.ndarray:
    """Paint a digit in place; share of ink in every patch, (10, 10)."""
    left, top = box
    place = (slice(top, top + len(ink)), slice(left, left + len(ink)))
    region = canvas[place]
    region *= 1 - 0.65 * halo[..., None]
    region += ink[..., None] * (colour - region)
    whole = np.zeros((SIDE, SIDE), dtype=np.float32)
    whole[place] = ink
    return whole.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))


def _photo(source: Pixels, rng: np.random.Generator) -> np.ndarray:
    crop = Image.fromarray(background(source, rng).astype(np.uint8))
    return np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.float32)


def clip(split: Split, seed: int, index: int, *, frames: int = FRAMES, difficulty: float = 1.0) -> Clip:
    """Draw one clip.

    Parameters
    ----------
    split
        Which digits and photo regions may be used.
    seed, index
        Number of the stream and of the clip in it.
    frames
        How many; six at least, so that three digits can come one after another.
    difficulty
        0 to 1: at 0 what crosses the middle moves far; 1 is what is measured.

    Returns
    -------
    Clip

    Raises
    ------
    ValueError
        For an unknown split or fewer than six frames.
    """
    if frames < SHORTEST_STAY + MOST_MOVERS - 1:
        raise ValueError(f"a clip of {frames} frames is too short: give it {SHORTEST_STAY + MOST_MOVERS - 1} or more")
    source = pixels(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = _photo(source, rng)
    count = int(rng.integers(2, MOST_MOVERS + 1))
    least = round(TRAVEL + (1 - difficulty) * 14)
    edges = np.linspace(0, SIDE, count + 1).astype(int)
    lanes = [(int(edges[i]), int(edges[i + 1])) for i in rng.permutation(count)]
    stays, directions = _stays(count, frames, rng), _directions(count, rng)
    directions = [directions[i] for i in rng.permutation(count)]
    values, colours = rng.permutation(10)[:count], rng.permutation(len(COLOURS))[:count]
    pictures = np.repeat(canvas[None], frames, 0)
    share = np.zeros((count, frames, GRID, GRID), dtype=np.float32)
    movers = []
    for number in range(count):
        side, boxes = _mover(lanes[number], stays[number], directions[number], frames, least, rng)
        members = np.flatnonzero(source.labels == values[number])
        ink, halo = ink_and_halo(source.digits[members[rng.integers(len(members))]], side)
        colour = np.asarray(COLOURS[COLOUR_NAMES[colours[number]]], dtype=np.float32) + rng.normal(0, 8, 3)
        for frame, box in enumerate(boxes):
            if box is not None:
                share[number, frame] = _paint(pictures[frame], box, ink, halo, colour)
        movers.append(Mover(int(values[number]), int(colours[number]), side, boxes))
    owner = np.where(share.max(0) >= INK_SHARE, share.argmax(0), -1).astype(np.int64)
    return Clip(np.clip(pictures, 0, 255).astype(np.uint8), tuple(movers), owner)
