"""Which patches survive, and which patches each survivor stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

LINE = (255, 64, 32)  # between two regions
MARK = (255, 255, 255)  # a survivor's own patch
DROPPED = (24, 24, 28)  # a patch that nobody stands for
DIMMED = 0.25  # brightness of a patch that does not survive


def survivors(picture: Image.Image, positions: Any, side: int, *, patch: int = 24) -> Image.Image:
    """Show the surviving patches as they are and darken all others.

    Parameters
    ----------
    picture
        The picture as the model's processor crops it; it is resized to ``side * patch`` pixels a side.
    positions
        Ints (K,): raster indices of the survivors' patches.
    side
        Patches a side of the picture.
    patch
        Pixels a side of a drawn patch.

    Returns
    -------
    PIL.Image.Image
        RGB, ``side * patch`` pixels a side.

    Raises
    ------
    ValueError
        An index is outside the grid.
    """
    kept = np.zeros(side * side, dtype=bool)
    kept[_indices(positions, side)] = True
    bright = _enlarged(kept.reshape(side, side), patch)
    pixels = _pixels(picture, side * patch)
    return _image(np.where(bright[..., None], pixels, pixels * DIMMED))


def regions(picture: Image.Image, sources: Any, side: int, *, positions: Any = None, patch: int = 24) -> Image.Image:
    """Show each survivor's region: filled with the mean colour of its patches, outlined, its own patch marked.

    Parameters
    ----------
    picture, side, patch
        As in `survivors`.
    sources
        Ints (side * side,): which survivor stands for each patch, -1 where none does (drawn dark).
    positions
        Ints (K,), optional: raster indices of the survivors' own patches, which get a dot.

    Returns
    -------
    PIL.Image.Image
        RGB, ``side * patch`` pixels a side.

    Raises
    ------
    ValueError
        The source map does not have ``side * side`` entries, or a position is outside the grid.
    """
    standing = np.asarray(sources).reshape(-1).astype(np.int64)
    if standing.size != side * side or standing.min(initial=0) < -1:
        raise ValueError(
            f"the source map has {standing.size} entries from {standing.min(initial=0)} on: "
            f"give {side * side} survivors' numbers, -1 for none"
        )
    colours = _means(_pixels(picture, side * patch), standing, side)
    filled = _enlarged(colours[standing].reshape(side, side, 3), patch)
    grid = standing.reshape(side, side)
    filled[_edges(grid, patch)] = LINE
    if positions is not None:
        for index in _indices(positions, side):
            _dot(filled, *divmod(int(index), side), patch)
    return _image(filled)


def _means(pixels: np.ndarray, standing: np.ndarray, side: int) -> np.ndarray:
    """Mean colours (K + 1, 3); the last one, which index -1 reaches, is that of dropped patches."""
    patch = pixels.shape[0] // side
    own = pixels.reshape(side, patch, side, patch, 3).mean((1, 3)).reshape(-1, 3)
    count = int(standing.max(initial=-1)) + 1
    members = np.bincount(standing + 1, minlength=count + 1)[1:]
    sums = np.stack([np.bincount(standing + 1, own[:, c], count + 1)[1:] for c in range(3)], axis=1)
    return np.vstack([sums / np.maximum(members, 1)[:, None], DROPPED])


def _edges(grid: np.ndarray, patch: int) -> np.ndarray:
    """Bool (side * patch, side * patch): a line along the left and upper side of a patch whose neighbour differs."""
    width = max(1, patch // 16)
    lines = np.zeros((grid.shape[0] * patch, grid.shape[1] * patch), dtype=bool)
    large = _enlarged(grid, patch)
    across, down = large[:, 1:] != large[:, :-1], large[1:] != large[:-1]
    for shift in range(width):
        lines[:, 1 + shift :] |= across[:, : across.shape[1] - shift]
        lines[1 + shift :] |= down[: down.shape[0] - shift]
    return lines


def _dot(pixels: np.ndarray, row: int, column: int, patch: int) -> None:
    size = max(1, patch // 5)
    top, left = row * patch + (patch - size) // 2, column * patch + (patch - size) // 2
    pixels[top - 1 : top + size + 1, left - 1 : left + size + 1] = 0
    pixels[top : top + size, left : left + size] = MARK


def _indices(positions: Any, side: int) -> np.ndarray:
    indices = np.asarray(positions).reshape(-1).astype(np.int64)
    if indices.size and not (indices.min() >= 0 and indices.max() < side * side):
        raise ValueError(
            f"positions run from {indices.min()} to {indices.max()}: give raster indices in 0..{side * side - 1}"
        )
    return indices


def _enlarged(values: np.ndarray, patch: int) -> np.ndarray:
    return values.repeat(patch, axis=0).repeat(patch, axis=1)


def _pixels(picture: Image.Image, size: int) -> np.ndarray:
    resized = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized).astype(np.float64)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
