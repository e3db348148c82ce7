"""AnyRes images (arXiv 2310.03744, LLaVA-NeXT): from pixel sizes to tiles, placeholders and their places; no tensors of
a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHRINK = 1.1  # LLaVA-OneVision shrinks only pictures whose side exceeds its limit by more than this


def best_resolution(size: tuple[int, int], resolutions: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the resolution (height, width) in which most pixels of a picture survive, then least is padding."""
    height, width = size

    def merit(one: Sequence[int]) -> tuple[int, int]:
        scale = min(one[1] / width, one[0] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, used - one[0] * one[1]

    best = max(resolutions, key=merit)  # the first of equals
    return int(best[0]), int(best[1])


@dataclass(frozen=True)
class Tiling:
    """How one image natively stands in a prompt: the base tile, then the tiles' patches row by row, a newline each.

    Attributes
    ----------
    side
        Patches a side of a tile.
    tiles
        Tiles (down, across) beside the base tile; (0, 0) where the base tile is alone.
    padding
        Patches (above and below, left and right) that are cut off again.
    grid
        Rows and columns of tokens that are left of the tiles, after shrinking.
    """

    side: int
    tiles: tuple[int, int] = (0, 0)
    padding: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)

    @property
    def items(self) -> int:
        """Tower items: all tiles with the base tile."""
        return self.tiles[0] * self.tiles[1] + 1

    @property
    def full(self) -> int:
        """Native placeholders; a base tile alone ends with one newline."""
        tokens = self.side**2
        return tokens + (self.grid[0] * (self.grid[1] + 1) if self.items > 1 else 1)

    def places(self, item: int, patches: Tensor) -> Tensor:
        """Return the native placeholder of each of `patches`, raster indices int64 (K,) of tile `item`.

        What lies in the padding belongs to the nearest row or column that is left.
        """
        if item == 0:
            return patches
        first = self.side**2
        found = []
        for axis, steps in enumerate((patches // self.side, patches % self.side)):
            tile = divmod(item - 1, self.tiles[1])[axis]
            left = self.tiles[axis] * self.side - 2 * self.padding[axis]
            place = (tile * self.side + steps - self.padding[axis]).clamp(0, max(left - 1, 0))
            found.append(place * self.grid[axis] // max(left, 1))
        return (first + found[0] * (self.grid[1] + 1) + found[1]).clamp(max=self.full - 1)


def tiling(
    size: tuple[int, int], resolutions: Sequence[Sequence[int]], pixels: int, side: int, limit: int | None = None
) -> Tiling:
    """Return the tiles of an image.

    Parameters
    ----------
    size
        Pixels (height, width) of the image as the user gave it.
    resolutions
        `config.image_grid_pinpoints`.
    pixels, side
        A tile's side, in pixels and in patches.
    limit
        Tiles' worth of tokens beyond which the tokens are shrunk, None for no limit.
    """
    height, width = size
    high, wide = best_resolution(size, resolutions)
    tiles = high // pixels, wide // pixels
    rows, columns = tiles[0] * side, tiles[1] * side
    above = beside = 0
    # Rounded to 7 digits, as all of the family's code has it: 12.99999999 is 13 rows.
    if width / height > columns / rows:
        above = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        beside = (columns - int(round(width * (rows / height), 7))) // 2
    left = rows - 2 * above, columns - 2 * beside
    ratio = math.sqrt(left[0] * left[1] / (limit * side**2)) if limit else 0.0
    grid = (int(left[0] // ratio), int(left[1] // ratio)) if ratio > SHRINK else left
    return Tiling(side, tiles, (above, beside), grid)


def frame_cells(patches: Tensor, side: int, cells: int) -> Tensor:
    """Return the cell, of a grid of cells x cells over a frame of side x side, that each patch (K,) falls into."""
    rows, columns = patches // side, patches % side
    return (rows * cells // side) * cells + columns * cells // side


def arange(count: int, survivors: Sequence[Tensor]) -> Tensor:
    """Return 0, 1, ... `count` - 1 where the survivors lie."""
    return torch.arange(count, device=survivors[0].device)
