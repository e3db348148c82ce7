"""The real pixels behind the scenes: handwritten digits and photographs, split so that no split sees another's.

Everything lives in one archive, ``pixels.npz``, written by ``python -m evoprune.tiny.collect`` from the data that the
scikit-learn and scikit-image packages carry; ``pixels.json`` beside it names every source, its licence and its sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Shares of each photograph's width and of each digit class that a split may use; the same order as SPLITS.
_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Pixels:
    """The pixels one split may use.

    Attributes
    ----------
    digits
        uint8 (n, 8, 8), ink 0 to 255.
    labels
        int64 (n,), the digit that each image shows.
    photos
        Regions of photographs, each uint8 (height, width, 3), RGB.
    """

    digits: np.ndarray
    labels: np.ndarray
    photos: tuple[np.ndarray, ...]


def archive() -> Path:
    """Path of the packaged pixel archive."""
    return Path(__file__).with_name("pixels.npz")


@lru_cache(maxsize=1)
def _load() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    with np.load(archive(), allow_pickle=False) as data:
        photos = tuple(data[key] for key in sorted(data.files) if key.startswith("photo_"))
        return data["digits"], data["labels"], photos


def photographs() -> tuple[np.ndarray, ...]:
    """The whole photographs, for pictures that a person looks at; never used to train or to measure."""
    return _load()[2]


def _bounds(total: int, split: Split) -> tuple[int, int]:
    ends = [round(total * sum(_SHARES[: i + 1])) for i in range(len(SPLITS))]
    place = SPLITS.index(split)
    return (ends[place - 1] if place else 0), ends[place]


@lru_cache(maxsize=len(SPLITS))
def pixels(split: Split) -> Pixels:
    """The digits and photo regions of one split; two splits never share a digit image or a photograph's pixel.

    Raises
    ------
    ValueError
        For a split that is not train, dev or test.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, but it has to be one of {', '.join(SPLITS)}")
    digits, labels, photos = _load()
    chosen = []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        start, end = _bounds(len(members), split)
        chosen.append(members[start:end])
    index = np.concatenate(chosen)
    regions = tuple(photo[:, slice(*_bounds(photo.shape[1], split))] for photo in photos)
    return Pixels(digits[index], labels[index], regions)
