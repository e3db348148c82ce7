"""How long the arms of a sweep take on the model that is evaluated, stage by stage: latency.json beside the cells.

One run measures the arms of one budget interleaved with the unpruned model, through `evoprune.bench`; a ratio is always
within a run. What is there stays; another device, shape or setting is refused, not mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from ..arms import FULL, Arm
from ..folder import Folder, FolderError
from .times import FILE, FORMAT, entry, inputs, load, modality, native, note, of_task, ratio, refusal, value

__all__ = [
    "FILE", "FORMAT", "PICTURE", "inputs", "load", "measure", "modality", "native", "note", "of_task", "ratio",
    "refusal", "value",
]  # fmt: skip

PICTURE = (480, 640)  # height and width of the pictures and frames that are timed


def measure(
    model: Any,
    processor: Any,
    arms: Sequence[Arm],
    *,
    folder: Folder | None = None,
    defaults: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    frames: int | None = None,
    batch: int = 16,
    repeats: int = 9,
    decode: int = 0,
    picture: tuple[int, int] = PICTURE,
    advance: Callable[[str, int, int], None] = lambda what, step, steps: None,
) -> dict[str, Any]:
    """Time the arms that the folder's latency.json has not yet, and return all that it then holds.

    Random is timed once, whatever its seeds. On one thread of a CPU a time is the processor's own, elsewhere the wall
    clock's, on a CUDA device by events.

    Parameters
    ----------
    model, processor
        Unpruned; the arms run on twins that share its weights, and it is left as it was.
    folder
        Where latency.json lies; None measures everything and writes nothing.
    defaults
        Settings that the model brings along (`Arm.pruner`).
    options
        Of `evoprune.apply`.
    frames
        Of a video; None times prompts with one picture.
    batch, repeats, decode
        Prompts a call, timed rounds, and tokens generated behind the first one.
    advance
        Told what is done, the number of that step, and of all.

    Raises
    ------
    ValueError
        The folder holds times of another device, shape or setting, or the model takes no such input.
    """
    from ...bench.manifest import manifest
    from .run import configuration, run

    told = configuration(model, options or {}, frames, batch, repeats, decode, picture)
    found = _resumed(folder, told)
    todo = _budgets([arm for arm in _once(arms) if entry(found, arm) is None])
    steps, numbers = sum((2 + repeats) * (len(part) + 2) for part in todo), count(1)
    for part in todo:

        def step(what: str) -> None:
            advance(what, next(numbers), steps)

        measured = run(model, processor, part, told, defaults or {}, options or {}, step)
        found["runs"].append({"manifest": manifest(dtype=told["dtype"]), **measured})
        if folder is not None:
            folder.write_json(FILE, found)
    return found


def _resumed(folder: Folder | None, told: dict[str, Any]) -> dict[str, Any]:
    before = None if folder is None else load(folder)
    if before is None:
        return {"format": FORMAT, "configuration": told, "runs": []}
    names = [name for name in told if before["configuration"].get(name) != told[name]]
    if names:
        raise FolderError(
            f"{folder.path / FILE} holds times with {names[0]}="  # type: ignore[union-attr]
            f"{before['configuration'].get(names[0])!r}, not {told[names[0]]!r}: measure with the same, or delete it"
        )
    return before


def _once(arms: Sequence[Arm]) -> list[Arm]:
    """The arms to be timed: each method at each budget once, whatever its seeds; the unpruned model always runs."""
    return list({one.slug: one for arm in arms if arm.method != FULL for one in [replace(arm, seed=None)]}.values())


def _budgets(arms: Sequence[Arm]) -> list[list[Arm]]:
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(repr(arm.keep), []).append(arm)  # 1 token and the share 1.0 are two budgets
    return list(found.values())
