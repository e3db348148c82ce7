"""Video files for a question: read, sampled and told about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import Progress

from ..models import FAMILIES
from ..video import Clip, read_video
from .errors import UserError, refused
from .terminal import progress

FRAMES = 32  # of a clip where the command line does not say


def open_clips(paths: Sequence[str], frames: int | None, shown: bool) -> list[Clip]:
    """Return `frames` evenly spread frames of each video, with a progress bar for each where `shown`.

    Raises
    ------
    UserError
        A video cannot be read, or frames are asked for where there is no video.
    """
    if not paths and frames is not None:
        raise UserError(f"--frames {frames} says how many frames of a video are used: give one with --video")
    clips = []
    with progress(shown) as bars, refused(ValueError):
        for path in paths:
            report = _bar(bars, f"Reading {path}")
            clips.append(read_video(path, FRAMES if frames is None else frames, on_frame=report))
    return clips


def _bar(bars: Progress, label: str) -> Callable[[int, int], None]:
    step = bars.add_task(label, total=None)
    return lambda done, total: bars.update(step, completed=done, total=total)


def notes(clips: Sequence[Clip]) -> list[str]:
    """A sentence for each clip that has fewer frames than asked for."""
    return [f"{clip.source}: {clip.note}" for clip in clips if clip.note]


def check_takes_video(name: str, processor: Any, family: Any) -> None:
    """Refuse a model that has no place for a video.

    Parameters
    ----------
    family
        The model's adapter, or its class.

    Raises
    ------
    UserError
        Its family or its processor takes pictures only; the message names the families that take videos.
    """
    if getattr(processor, "video_processor", None) is not None and "video" in family.modalities:
        return
    known = [one.name for one in FAMILIES if "video" in one.modalities]
    others = f"choose a model of {', '.join(known)}" if known else "no supported family takes videos yet"
    raise UserError(f"{name} ({family.name}, {type(processor).__name__}) takes no video: give --image, or {others}")
