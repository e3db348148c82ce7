"""Clips as users have them: video files, animated pictures and folders of frames, sampled evenly."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from pathlib import Path

from .clip import Clip, sample_indices

__all__ = ["Clip", "read_video", "sample_indices"]


def read_video(path: str | Path, frames: int, *, on_frame: Callable[[int, int], None] | None = None) -> Clip:
    """Read `frames` frames that are spread evenly over the whole clip.

    Of a clip with N frames, frame ``floor((i + 0.5) * N / frames)`` is taken for i in 0..frames - 1: the middle of each
    of `frames` equal parts. A clip with fewer frames gives all it has, and `Clip.note` says so. Only the frames that
    are taken are held in memory.

    Parameters
    ----------
    path
        A video file that FFmpeg reads (needs PyAV, ``pip install 'evoprune[video]'``), an animated GIF, WebP or PNG,
        or a folder of pictures of one size, in natural order of their names (``frame2.png`` before ``frame10.png``).
    frames
        How many frames to take, at least 1.
    on_frame
        Called with how many frames are there and how many there will be, after each frame.

    Returns
    -------
    Clip
        Frames uint8 (F, H, W, 3), turned upright where the file says how.

    Raises
    ------
    ValueError
        No such file, an empty or broken one, one without a video stream or without frames, a folder without pictures
        or with pictures of several sizes, PyAV is missing, or `frames` is below 1.
    """
    frames = _whole(frames)
    report = on_frame or (lambda done, total: None)
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ValueError(f"{path!r} is no path of a video: give a file or a folder of frames")
    file = Path(path)
    # os.path, as a path that no file system takes (a name too long) makes pathlib raise.
    if not os.path.exists(file):
        raise ValueError(f"{file} does not exist: give the path of a video file or of a folder of frames")
    if os.path.isdir(file):
        from .pictures import read_folder

        return read_folder(file, frames, report)
    if not os.path.isfile(file):
        raise ValueError(f"{file} is no regular file: save the stream to a file first")
    if os.path.getsize(file) == 0:
        raise ValueError(f"{file} is empty (0 bytes): record or download it again")
    from .pictures import is_picture, read_animation

    if is_picture(file):
        return read_animation(file, frames, report)
    from .decode import read_file

    return read_file(file, frames, report)


def _whole(frames: int) -> int:
    try:
        number = 0 if isinstance(frames, bool) else operator.index(frames)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"frames={frames!r} is no number of frames: give a whole number of at least 1")
    return number
