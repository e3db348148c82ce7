"""Reading latency.json: the time of an arm in a stage, and its ratio to the unpruned model's in the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...bench.results import RATIOS
from ..arms import FULL, Arm
from ..embedded.tasks import TASKS
from ..folder import Folder, FolderError

FORMAT = "evoprune.latency/1"
FILE = "latency.json"


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
    found = entry(latency, arm)
    return None if found is None else _seconds(found[1], stage)


def ratio(latency: Mapping[str, Any] | None, arm: Arm, stage: str, to: str | None = None) -> float | None:
    """Return the time of `arm` in a stage as a share of the unpruned model's in the same run, None where not measured.

    Parameters
    ----------
    to
        ``"native"``, the model as shipped, or ``"native-read"``, without the layers that nobody reads and with the
        options in force. None takes the second where it was measured, which is the harder one.
    """
    found = entry(latency, arm)
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


def modality(latency: Mapping[str, Any] | None) -> str | None:
    """Return ``"image"`` or ``"video"``, what the prompts showed that were timed; None where nothing was."""
    if latency is None or not latency["runs"]:
        return None
    return "image" if latency["configuration"].get("frames") is None else "video"


def inputs(latency: Mapping[str, Any]) -> str:
    """Return what was timed in words, such as ``"prompts with one picture of 480 x 640, batch 16"``."""
    told = latency["configuration"]
    frames, size = told.get("frames"), told.get("picture")
    what = "one picture" if frames is None else f"a video of {frames} {'frame' if frames == 1 else 'frames'}"
    return f"prompts with {what}{f' of {size[0]} x {size[1]}' if size else ''}, batch {told.get('batch')}"


def of_task(latency: Mapping[str, Any] | None, task: str) -> Mapping[str, Any] | None:
    """Return the times if they are of what a task shows; None where pictures were timed and it shows videos, or back.

    A task of somebody else, of which that is not known, gets them.
    """
    shown = _shows(task)
    return latency if shown is None or modality(latency) == shown else None


def note(latency: Mapping[str, Any], task: str | None = None) -> str:
    """Return what has to be read below a table with times, of all tasks or of one."""
    if task is not None and latency["runs"] and of_task(latency, task) is None:
        return f"time: not measured; {inputs(latency)} were timed, which {task} does not show"
    return f"time: to the first token, as a share of the unpruned model's; {inputs(latency)}"


def _shows(task: str) -> str | None:
    from .. import catalogue

    if task in TASKS:
        return TASKS[task]
    try:
        return catalogue.modality(task)
    except (ImportError, ValueError, LookupError):
        return None


def refusal(latency: Mapping[str, Any] | None, arm: Arm) -> str | None:
    """Return why an arm could not be timed, None where it was, or was not tried."""
    found = entry(latency, arm)
    return None if found is None else found[1].get("error")


def entry(latency: Mapping[str, Any] | None, arm: Arm) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the run that holds an arm, and what it holds of it: of the unpruned model the first run's base."""
    runs = [] if latency is None else latency["runs"]
    wanted = replace(arm, seed=None).slug  # arms with 1 token and with the share 1.0 are equal, their slugs are not
    for run in runs:
        if arm.method == FULL and (base := _base(run, None)) is not None:
            return run, base
        for one in run["arms"]:
            if Arm.from_dict(one["arm"]).slug == wanted:
                return run, one
    return None


def _base(run: Mapping[str, Any], kind: str | None) -> dict[str, Any] | None:
    found = [one for one in run["bases"] if not one["error"] and kind in (None, one["kind"])]
    return found[-1] if found else None


def _seconds(entry: Mapping[str, Any], stage: str) -> float | None:
    found = entry.get("times", {}).get(RATIOS.get(stage, stage))
    return None if found is None else found["median"]
