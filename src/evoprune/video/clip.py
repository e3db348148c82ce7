"""What reading a video gives: sampled frames and where in the clip they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames sampled evenly from a clip.

    Attributes
    ----------
    frames
        uint8 (F, H, W, 3), RGB: what the video processors of transformers take without a conversion.
    indices
        Index of each frame in the clip, (F,).
    timestamps
        Seconds from the clip's first frame, (F,); None for a folder of pictures, which has no clock.
    fps
        Frames a second of the whole clip, None where nothing tells.
    total_frames
        How many frames the whole clip has.
    asked
        How many frames were asked for.
    source
        The path as it was given.
    """

    frames: np.ndarray
    indices: tuple[int, ...]
    timestamps: tuple[float, ...] | None
    fps: float | None
    total_frames: int
    asked: int
    source: str

    @property
    def note(self) -> str | None:
        """A sentence about a clip with fewer frames than asked for, None otherwise."""
        if self.total_frames >= self.asked:
            return None
        frames = "1 frame" if self.total_frames == 1 else f"{self.total_frames} frames"
        return f"the clip has {frames}, {self.asked} were asked for"

    def metadata(self) -> dict[str, Any]:
        """What transformers calls video metadata, so that processors know the times of frames sampled already.

        A new list of indices at every call, as some processors lengthen it.
        """
        return {
            "total_num_frames": self.total_frames,
            "fps": self.fps,
            "width": self.frames.shape[2],
            "height": self.frames.shape[1],
            "duration": self.total_frames / self.fps if self.fps else None,
            "video_backend": "pyav",
            "frames_indices": list(self.indices),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels as plain JSON values."""
        return {
            "source": self.source,
            "frames_used": len(self.indices),
            "frames_asked": self.asked,
            "total_frames": self.total_frames,
            "fps": self.fps,
            "size": [self.frames.shape[2], self.frames.shape[1]],
            "indices": list(self.indices),
            "timestamps": None if self.timestamps is None else [round(time, 6) for time in self.timestamps],
            "note": self.note,
        }


def sample_indices(total: int, frames: int) -> list[int]:
    """Return ``floor((i + 0.5) * total / frames)`` for each i < `frames`, all indices where there are fewer."""
    count = min(total, frames)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


class Taken:
    """The frames taken so far: one array for all, as stacking a list would hold each of them twice.

    Parameters
    ----------
    count
        How many frames there will be.
    report
        Called with how many are there, and `count`, after each frame.
    """

    def __init__(self, count: int, report: Callable[[int, int], None]):
        self.count, self.done, self._report = count, 0, report
        self.frames = np.empty((0, 0, 0, 3), dtype=np.uint8)

    def add(self, frame: np.ndarray) -> None:
        """Take a frame, uint8 (H, W, 3), of the size of the first one."""
        if not self.done:
            self.frames = np.empty((self.count, *frame.shape), dtype=np.uint8)
        self.frames[self.done] = frame
        self.done += 1
        self._report(self.done, self.count)
