"""Prompts for a fit: from a JSON-lines file, a folder of pictures, or the embedded benchmark's dev questions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..video import Clip
from .answer import prepare
from .clips import open_clips
from .errors import UserError
from .pictures import open_picture

KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PROMPT = "Describe the image."
FIELDS = ("image", "video", "prompt")
WAY_OUT = 'write one JSON object a line, such as {"image": "cat.jpg", "prompt": "What is this?"}'


@dataclass(frozen=True)
class Asked:
    """One prompt: files, or, of the embedded benchmark, a split's number."""

    prompt: str
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    scene: int | None = None
    film: int | None = None

    def shown(self, frames: int | None) -> tuple[list[Any], list[Clip]]:
        """Open its pictures and videos."""
        if self.scene is not None:
            from ..tiny.benchmark import picture

            return [picture("dev", self.scene).image()], []
        if self.film is not None:
            from ..tiny.video.benchmark import film

            values = film("dev", self.film).frames
            count = len(values)
            return [], [Clip(values, tuple(range(count)), None, None, count, count, f"dev clip {self.film}")]
        return [open_picture(path) for path in self.images], open_clips(self.videos, frames, False)


def find_prompts(model: str, data: Path | None, prompt: str | None, samples: int, seed: int) -> list[Asked]:
    """Return at most `samples` prompts, drawn by `seed` where there are more, in the order of the data.

    Raises
    ------
    UserError
        No data, none that can be read, or lines that are no prompts: with file and line.
    """
    from numpy.random import default_rng

    found = _embedded(model, prompt) if data is None else _read(data, prompt)
    if len(found) > samples:
        found = [found[i] for i in sorted(default_rng(seed).choice(len(found), samples, replace=False).tolist())]
    return found


def prompts(asked: Sequence[Asked], processor: Any, device: torch.device, frames: int | None) -> Iterator[Any]:
    """Yield what the processor makes of each prompt."""
    for one in asked:
        pictures, clips = one.shown(frames)
        yield prepare(processor, [one.prompt], [pictures], device, [clips])


def _embedded(model: str, prompt: str | None) -> list[Asked]:
    if model == "tiny":
        from ..tiny.benchmark import examples
    elif model == "tiny-video":
        from ..tiny.video.benchmark import examples
    else:
        raise UserError(
            f"there is nothing to fit {model} on: give --data with a folder of pictures, or a .jsonl file of "
            '{"image": ..., "prompt": ...}'
        )
    if prompt is not None:
        raise UserError(f"--prompt {prompt!r} goes with a folder of pictures: give one with --data, or leave it out")
    if model == "tiny":
        return [Asked(one.question, scene=one.scene) for one in examples("dev")]
    return [Asked(one.question, film=one.scene) for one in examples("dev")]


def _read(data: Path, prompt: str | None) -> list[Asked]:
    if os.path.isdir(data):
        files = sorted(str(file) for file in data.iterdir() if file.suffix.lower() in KINDS)
        if not files:
            raise UserError(f"{data} holds no picture ({', '.join(KINDS)}): give a folder that does, or a .jsonl file")
        return [Asked(prompt or PROMPT, images=(file,)) for file in files]
    if not os.path.exists(data):
        raise UserError(f"{data} does not exist: give a folder of pictures, or a .jsonl file of prompts")
    if prompt is not None:
        raise UserError(f"--prompt {prompt!r} goes with a folder of pictures, but {data} has prompts: leave it out")
    try:
        lines = data.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{data} cannot be read as text ({error}): {WAY_OUT}") from error
    found = [_line(f"{data}, line {number}", line, data.parent) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{data} is empty: {WAY_OUT}")
    return found


def _line(where: str, text: str, folder: Path) -> Asked:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({str(error).splitlines()[0]}): {WAY_OUT}") from error
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
        raise UserError(f"{where} has no prompt that is text: {WAY_OUT}")
    odd = [name for name in values if name not in FIELDS]
    if odd:
        raise UserError(f"{where} has the field {odd[0]!r}, which means nothing here: {WAY_OUT}")
    seen = {name: _paths(where, name, values.get(name), folder) for name in FIELDS[:2]}
    if not seen["image"] and not seen["video"]:
        raise UserError(f"{where} names neither image nor video: {WAY_OUT}")
    return Asked(values["prompt"], seen["image"], seen["video"])


def _paths(where: str, name: str, value: Any, folder: Path) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(path, str) for path in listed):
        raise UserError(f"{where} has an {name} that is no path: {WAY_OUT}")
    paths = [str(folder / os.path.expanduser(path)) for path in listed]
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"{where} names {path}, which does not exist: give paths relative to {folder}")
    return tuple(paths)
