"""Clips that Pillow reads: folders of frames and animated pictures."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..rgb import plain_rgb
from .clip import Clip, Taken, sample_indices

FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP", "TIFF", "PPM", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A sort key by which ``frame2`` comes before ``frame10``; of equal numbers, the shorter one comes first."""
    parts = re.split(r"(\d+)", name.lower(), flags=re.ASCII)  # text and numbers in turn
    key = [(True, int(part), "") if place % 2 else (False, 0, part) for place, part in enumerate(parts)]
    return [*key, (False, len(name), name)]


def read_folder(folder: Path, frames: int, report: Callable[[int, int], None]) -> Clip:
    """Read evenly spread pictures of `folder`; see `read_video`."""
    try:
        files = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and not one.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}): choose another folder") from error
    files.sort(key=lambda one: natural(one.name))
    if not files:
        raise ValueError(f"{folder} holds no frames: put PNG, JPEG, WebP, ... pictures into it, or give a video file")
    indices = sample_indices(len(files), frames)
    taken = Taken(len(indices), report)
    for index in indices:
        with _opened(files[index]) as picture:
            frame = np.asarray(plain_rgb(ImageOps.exif_transpose(picture)))
        height, width = frame.shape[:2]
        if taken.done and frame.shape != taken.frames.shape[1:]:
            other = f"{taken.frames.shape[2]} x {taken.frames.shape[1]}"
            raise ValueError(
                f"{files[index]} is {width} x {height} pixels and {files[indices[0]].name} is {other}: the frames of a "
                "clip have one size, scale them to it"
            )
        taken.add(frame)
    return Clip(taken.frames, tuple(indices), None, None, len(files), frames, str(folder))


def is_picture(file: Path) -> bool:
    """Whether Pillow, not FFmpeg, is to read `file`: told by its content, not by its name."""
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, SyntaxError, ValueError, RuntimeError, IndexError, struct.error):
        return False


def read_animation(file: Path, frames: int, report: Callable[[int, int], None]) -> Clip:
    """Read evenly spread frames of an animated GIF, WebP or PNG; a still picture is a clip of one frame."""
    with _opened(file) as picture:
        total = getattr(picture, "n_frames", 1)
        indices = sample_indices(total, frames)
        wanted, taken, starts, clock = set(indices), Taken(len(indices), report), [], 0.0
        for number in range(total):  # one by one, as a frame is stored as its difference from the last
            picture.seek(number)
            picture.load()
            starts.append(clock)
            clock += picture.info.get("duration") or 0
            if number in wanted:
                taken.add(np.asarray(plain_rgb(picture)))
    fps = 1000.0 * total / clock if clock else None
    times = tuple(starts[index] / 1000.0 for index in indices)
    return Clip(taken.frames, tuple(indices), times if clock else None, fps, total, frames, str(file))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with Image.open(file) as picture:
            yield picture
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{file} is beyond the limit of {Image.MAX_IMAGE_PIXELS} pixels: scale the picture down"
        ) from error
    # What Pillow's readers raise for broken files.
    except (OSError, SyntaxError, EOFError, ValueError, RuntimeError, IndexError, struct.error) as error:
        raise ValueError(f"{file} is broken or no picture ({_first_line(error)}): give another file") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
