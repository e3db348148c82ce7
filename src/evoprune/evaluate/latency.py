"""How long the arms of a sweep take on the model that is evaluated, stage by stage: latency.json beside the cells.

One run measures the arms of one budget interleaved with the unpruned model, through `evoprune.bench`; a ratio is always
within a run. What is there stays; another device, shape or setting is refused, not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bench.results import RATIOS
from .arms import FULL, Arm
from .folder import Folder, FolderError

FORMAT = "evoprune.latency/1"
FILE = "latency.json"
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
        Told what is done, how many steps are behind it and how many there are.

    Raises
    ------
    ValueError
        The folder holds times of another device, shape or setting, or the model takes no such input.
    """
    from ..bench.manifest import manifest
    from .latency_run import configuration, run

    told = configuration(model, options or {}, frames, batch, repeats, decode, picture)
    found = _resumed(folder, told)
    todo = _budgets([arm for arm in _once(arms) if _entry(found, arm) is None])
    steps, done = sum((2 + repeats) * (len(part) + 2) for part in todo), 0
    for part in todo:

        def step(what: str) -> None:
            nonlocal done
            done += 1
            advance(what, done, steps)

        measured = run(model, processor, part, told, defaults or {}, options or {}, step)
        found["runs"].append({"manifest": manifest(dtype=told["dtype"]), **measured})
        if folder is not None:
            folder.write_json(FILE, found)
    return found


def load(folder: Path | Folder) -> dict[str, Any] | None:
    """Return what latency.json of a results folder holds, None where nothing was timed.

    Raises
    ------
    FolderError
        It is no such file.
    """
    path = (folder.path if isinstance(folder, Folder) else Path(folder)) / FILE
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read ({error}): delete it, and the times are measured anew") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FolderError(f"{path} holds no times in the format {FORMAT}: delete it, and they are measured anew")
    return data


def value(latency: Mapping[str, Any] | None, arm: Arm, stage: str) -> float | None:
    """Return the median seconds of a call of `arm` in a stage, None where that was not measured or cannot be.

    `stage` is one of ``evoprune.bench.results.STAGES``, or what tables call it: ``pre-LLM``, ``LLM``, ``overall``.
    """
    found = _entry(latency, arm)
    return None if found is None else _seconds(found[1], stage)


def ratio(latency: Mapping[str, Any] | None, arm: Arm, stage: str, to: str | None = None) -> float | None:
    """Return the time of `arm` in a stage as a share of the unpruned model's in the same run, None where not measured.

    Parameters
    ----------
    to
        ``"native"``, the model as shipped, or ``"native-read"``, without the layers that nobody reads and with the
        options in force. None takes the second where it was measured, which is the harder one.
    """
    found = _entry(latency, arm)
    if found is None:
        return None
    base = _base(found[0], to)
    mine, its = _seconds(found[1], stage), None if base is None else _seconds(base, stage)
    return mine / its if mine is not None and its else None


def native(latency: Mapping[str, Any] | None, stage: str) -> float | None:
    """Return the ratio of the model as shipped to the base of `ratio`, the mean over runs; None where they are one."""
    runs = [] if latency is None else [run for run in latency["runs"] if len(run["bases"]) > 1]
    pairs = [(_seconds(run["bases"][0], stage), _seconds(run["bases"][-1], stage)) for run in runs]
    shares = [a / b for a, b in pairs if a is not None and b]
    return sum(shares) / len(shares) if shares else None


def refusal(latency: Mapping[str, Any] | None, arm: Arm) -> str | None:
    """Return why an arm could not be timed, None where it was, or was not tried."""
    found = _entry(latency, arm)
    return None if found is None else found[1].get("error")


def _entry(latency: Mapping[str, Any] | None, arm: Arm) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The run that holds an arm, and what it holds of it: of the unpruned model the first run's base."""
    runs = [] if latency is None else latency["runs"]
    wanted = replace(arm, seed=None)
    for run in runs:
        if arm.method == FULL and (base := _base(run, None)) is not None:
            return run, base
        for one in run["arms"]:
            if Arm.from_dict(one["arm"]) == wanted:
                return run, one
    return None


def _base(run: Mapping[str, Any], kind: str | None) -> dict[str, Any] | None:
    found = [one for one in run["bases"] if not one["error"] and kind in (None, one["kind"])]
    return found[-1] if found else None


def _seconds(entry: Mapping[str, Any], stage: str) -> float | None:
    found = entry.get("times", {}).get(RATIOS.get(stage, stage))
    return None if found is None else found["median"]


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
    found: dict[Any, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.keep, []).append(arm)
    return list(found.values())
