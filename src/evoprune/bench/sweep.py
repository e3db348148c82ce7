"""A sweep over shapes: a cell that is done is in the file already, and the next run goes on behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .inputs import Shape
from .manifest import manifest, processor_name
from .results import FORMAT


def shapes(
    images: Sequence[int] | None, frames: Sequence[int] | None, batches: Sequence[int], default: Shape
) -> list[Shape]:
    """Return every combination, batches innermost; `default` says what there is where nothing is asked for.

    Raises
    ------
    ValueError
        A number below 1, one given twice, or pictures and frames both.
    """
    for name, numbers in (("images", images), ("frames", frames), ("batch", batches)):
        for number in numbers or ():
            if number < 1:
                raise ValueError(f"--{name} {number} shows the model nothing: give numbers from 1 on")
        if len(set(numbers or ())) < len(numbers or ()):
            raise ValueError(f"--{name} {','.join(map(str, numbers or ()))} has a number twice: give each once")
    if images and frames:
        raise ValueError("--images and --frames were both given: a prompt has either pictures or a video, choose one")
    if images or frames:
        parts = [Shape(number, None) for number in images or ()] + [Shape(None, number) for number in frames or ()]
    else:
        parts = [default]
    return [Shape(one.images, one.frames, batch) for one in parts for batch in batches]


class Sweep:
    """One result, in memory and in its file.

    Parameters
    ----------
    path
        The file, None for a result that is only returned.
    configuration
        All that decides what is measured: a file with another one is not continued.
    facts
        Further keys of the result.
    """

    def __init__(self, path: Path | None, configuration: Mapping[str, Any], facts: Mapping[str, Any]):
        self.path = path
        about = manifest(seed=configuration.get("seed"), dtype=facts["dtype"], attention=facts["attention"])
        if str(facts.get("device", "")).startswith("cpu"):
            about["device"] = processor_name()
        machine = {"machine": about["device"], "packages": about["packages"]}
        self.configuration: dict[str, Any] = json.loads(json.dumps({**configuration, **machine}))
        self.result: dict[str, Any] = {
            "format": FORMAT,
            "manifest": about,
            "command": about["command"],
            **json.loads(json.dumps(facts)),
            "configuration": self.configuration,
            "cells": [],
        }

    def resume(self, overwrite: bool = False) -> int:
        """Take over the cells that the file has already, and return how many.

        Raises
        ------
        ValueError
            The file holds something else, or a result of another configuration.
        """
        if self.path is None or overwrite or not self.path.exists() or not self.path.stat().st_size:
            return 0
        way_out = "choose another file, or give --overwrite"
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path} exists and is no JSON: {way_out}") from error
        if not isinstance(before, dict) or before.get("format") != FORMAT or not isinstance(before.get("cells"), list):
            raise ValueError(f"{self.path} exists and is no result in the format {FORMAT}: {way_out}")
        if before.get("configuration") != self.configuration:
            raise ValueError(f"{self.path} holds a result of other settings ({self._other(before)}): {way_out}")
        self.result["cells"] = before["cells"]
        if before["cells"]:
            self.result["dtype"] = before["dtype"]  # of a local model: as it is stored
            self.result["manifest"] = {**self.result["manifest"], "resumed_from": before.get("manifest")}
        return len(before["cells"])

    def _other(self, before: Mapping[str, Any]) -> str:
        theirs = before.get("configuration") or {}
        names = [name for name in {**theirs, **self.configuration} if theirs.get(name) != self.configuration.get(name)]
        return ", ".join(names)

    def done(self, shape: Shape) -> bool:
        """Whether the cell of a shape is there already."""
        return any(key(cell) == (shape.images, shape.frames, shape.batch) for cell in self.result["cells"])

    def run(self, todo: Sequence[Shape], cell: Callable[[Shape], dict[str, Any]]) -> dict[str, Any]:
        """Measure what is not there yet, writing the file behind each cell."""
        for shape in todo:
            if not self.done(shape):
                self.result["cells"].append(cell(shape))
                self.write()
        return self.result

    def write(self) -> None:
        """Write the file in one go, so that it is whole whenever it is read."""
        if self.path is None:
            return
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps(self.result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)


def key(cell: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return what tells a cell from the others of its result."""
    return cell["images"], cell["frames"], cell["batch"]
