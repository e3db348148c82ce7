"""What stands on the command line of ``evoprune bench``, checked before anything is built."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..bench.inputs import Shape
from ..bench.measure import Rounds
from ..bench.presets import Preset
from ..bench.published import PRESETS
from ..errors import unknown
from ..models.graphs import MODES
from ..pruners import Pruner, get
from .device import choose_device
from .errors import UserError, refused
from .loading import EMBEDDED, defaults
from .settings import make_pruner, missing
from .terminal import check_writable, emit, out

STAGES = ("all", "encoder")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
FRAMES = 8  # of a video where a model is made for videos and nothing is said


@dataclass(frozen=True)
class Wanted:
    """What stands on the command line, as it was written."""

    model: str
    stages: str
    methods: str
    keep: str
    schedule: str | None
    settings: Sequence[str]
    images: str | None
    frames: str | None
    batch: str
    dtype: str
    device: str
    attention: str
    repeats: int
    warmup: int | None
    decode_tokens: int
    threads: int | None
    seed: int
    naive: bool
    native_read: bool
    encoder_mode: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Outputs:
    """Where the result goes; ``-`` is stdout."""

    json: Path | None
    csv: Path | None
    plot: Path | None
    overwrite: bool

    @property
    def stdout(self) -> bool:
        return str(self.json) == "-"

    def check(self) -> None:
        """Refuse paths that cannot be written, and a plot that nothing can draw, before anything runs."""
        for name, path, endings in (
            ("json", None if self.stdout else self.json, (".json",)),
            ("csv", self.csv, (".csv",)),
            ("plot", self.plot, (".png", ".svg", ".pdf")),
        ):
            if path is None:
                continue
            if path.suffix.lower() not in endings:
                raise UserError(f"--{name} {path} does not end in {' or '.join(endings)}: give a name that does")
            check_writable(path, endings)
        if self.plot is not None and importlib.util.find_spec("matplotlib") is None:
            raise UserError("--plot needs matplotlib, which is not installed: pip install 'evoprune[plots]'")


def find_preset(name: str) -> Preset | None:
    """Return the preset of that name, None for a model in a folder or on the hub.

    Raises
    ------
    UserError
        Neither, with the nearest name.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in EMBEDDED or os.path.exists(os.path.expanduser(name)) or "/" in name:
        return None
    raise UserError(f"{unknown('preset', name, [*PRESETS, *EMBEDDED])}, or give the folder of a model")


def usual(preset: Preset | None, name: str) -> Shape:
    """Return what a model is shown where nothing is said: a picture, or the frames of its preset."""
    frames = preset.frames if preset is not None else FRAMES if name == "tiny-video" else None
    return Shape(1) if frames is None else Shape(None, frames)


def rounds(wanted: Wanted) -> Rounds:
    """Return how often everything runs; UserError for a number too small."""
    if wanted.repeats < 1:
        raise UserError(f"--repeats {wanted.repeats} measures nothing: give at least 1")
    for name, value, least in (
        ("warmup", wanted.warmup, 0), ("threads", wanted.threads, 1), ("decode-tokens", wanted.decode_tokens, 0),
        ("seed", wanted.seed, 0),
    ):  # fmt: skip
        if value is not None and value < least:
            raise UserError(f"--{name} {value} is too small: give at least {least}")
    # On a CPU the rounds that count FLOPs and watch memory warm up enough; a GPU has kernels to compile and clocks to
    # raise.
    usual = 2 if choose_device(wanted.device).type == "cuda" else 0
    return Rounds(wanted.repeats, usual if wanted.warmup is None else wanted.warmup)


def check_words(wanted: Wanted, device: torch.device) -> None:
    """Refuse words that nobody knows, and CUDA graphs without CUDA, before anything is built."""
    for name, value, known in (
        ("--stages", wanted.stages, STAGES), ("--attention", wanted.attention, ATTENTION),
        ("--encoder-mode", wanted.encoder_mode, MODES),
    ):  # fmt: skip
        if value not in known:
            raise UserError(unknown(name, value, known))
    if wanted.encoder_mode == "cudagraph" and device.type != "cuda":
        raise UserError(f"--encoder-mode cudagraph needs a CUDA device and this is {device}: choose compile or eager")


def make_pruners(wanted: Wanted) -> list[Pruner]:
    """Return every method at every keep; a setting goes to those methods that have it, and one of them must."""
    methods, keeps = _words("methods", wanted.methods), _words("keep", wanted.keep)
    with refused(ValueError):
        known = {method: {field.name for field in fields(get(method))} for method in methods}
    made = []
    for method in methods:
        own = [one for one in wanted.settings if _known_by(one, known, method)]
        schedule = wanted.schedule if _known_by("schedule", known, method) else None
        brought = missing(method, own, defaults(wanted.model))
        made += [make_pruner(method, keep, schedule, own, brought) for keep in keeps]
    return made


def _known_by(setting: str, known: Mapping[str, set[str]], method: str) -> bool:
    """Whether a method has a setting; one that none of them has goes to all, so that they refuse it."""
    name = setting.partition("=")[0].strip()
    return name in known[method] or not any(name in names for names in known.values())


def _words(name: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UserError(f"--{name} {text!r} names nothing: give one or more, with commas between")
    if len(set(words)) < len(words):
        raise UserError(f"--{name} {text} names one twice: give each once")
    return words


def numbers(name: str, text: str | None) -> list[int] | None:
    """Return the numbers of a list with commas, None where nothing is said."""
    if text is None:
        return None
    try:
        return [int(word) for word in _words(name, text)]
    except ValueError:
        raise UserError(f"--{name} {text!r} is no list of numbers: give for example --{name} 1,16") from None


def presets(as_json: bool) -> None:
    """List the presets."""
    from rich.table import Table

    from ..bench.memory import gigabytes

    if as_json:
        emit({"presets": [preset.to_dict() for preset in PRESETS.values()]})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("preset, and the model it is of", "weights", "bfloat16", "shown", "tokens"):
        table.add_column(heading, justify="left" if heading.startswith("preset") else "right", no_wrap=True)
    for preset in PRESETS.values():
        shape = usual(preset, preset.name)
        figures = f"{preset.parameters / 1e9:.2f} B", gigabytes(2 * preset.parameters)
        table.add_row(f"[bold]{preset.name}[/]", *figures, str(shape), str(preset.tokens * (shape.frames or 1)))
        table.add_row(f"  {preset.citation}", style="dim")
    console = out()
    console.print(table)
    console.print("Pictures and frames shown, and the visual tokens that the language model natively sees of them.")
