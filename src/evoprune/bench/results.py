"""Reading what `evoprune bench` wrote: cells, arms, the native ones they are set against, and ratios.

A *cell* is one input (so many images or frames, such a batch); its *arms* ran interleaved on it. Two arms are bases:
``native`` is the model as shipped, ``native-read`` the same without the layers whose output nobody reads. Where both
were measured, goals are judged by the second, which is the harder one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

FORMAT = "evoprune.bench/1"
STAGES = ("preprocess", "encoder", "selection", "projector", "pre_llm", "prefill", "ttft", "decode", "whole")
PARTS = {
    "pre_llm": ("encoder", "projector"),
    "ttft": ("preprocess", "encoder", "projector", "prefill"),
}
"""Stages that are made of others; the selection lies within the encoder."""
RATIOS = {"encoder": "encoder", "pre-LLM": "pre_llm", "LLM": "prefill", "overall": "ttft"}
"""What the tables call a ratio, and the stage it is of."""
BASES = ("native", "native-read")

Quantity = Literal["seconds", "cpu_seconds", "flops", "tower_flops", "memory"]
QUANTITIES = ("seconds", "cpu_seconds", "flops", "tower_flops", "memory")
CLOCKS = {"seconds": "wall clock", "cpu_seconds": "processor time"}


def load(path: str | Path) -> dict[str, Any]:
    """Return the result in the file at `path`.

    Raises
    ------
    ValueError
        The file cannot be read, is no result of `evoprune bench`, or was written in another version of its format.
    """
    return check(read(Path(path), "give a file written by `evoprune bench --json`"), str(path))


def read(path: Path, wanted: str) -> Any:
    """Return the JSON in a file; ValueError that ends with what is `wanted` where it cannot be read or is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {wanted}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): {wanted}") from error


def check(data: Any, name: str = "this object") -> dict[str, Any]:
    """Return `data` if it is a result of `evoprune bench` in the format that this version reads, else raise."""
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(found, str) or not found.startswith("evoprune.bench/"):
        raise ValueError(
            f"{name} is no result of `evoprune bench` (its format is {found!r}): give a file written with --json"
        )
    if found != FORMAT:
        raise ValueError(
            f"{name} has the format {found!r}, and this version of evoprune reads {FORMAT!r}: measure it anew"
        )
    if not isinstance(data.get("cells"), list):
        raise ValueError(f"{name} has no list of cells: it is cut short, measure it anew")
    return data


def arms(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (cell, arm) for every arm of every cell, in the order in which they were measured."""
    for cell in result["cells"]:
        for one in cell["arms"]:
            yield cell, one


def base(cell: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the arm of `cell` that is the base `kind`, None where it was not measured or failed."""
    found = [one for one in cell["arms"] if one["kind"] == kind and not one.get("error")]
    return found[0] if found else None


def bases(cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the bases of `cell` by name, the one that goals are judged by last."""
    return {kind: one for kind in BASES if (one := base(cell, kind)) is not None}


def fair(cell: dict[str, Any]) -> dict[str, Any] | None:
    """Return the base that goals are judged by: without unread layers where that was measured, else as shipped."""
    return next(reversed(bases(cell).values()), None)


def value(arm: dict[str, Any], stage: str, quantity: Quantity = "seconds") -> float | None:
    """Return what `arm` took at `stage`, None where that was not measured.

    ``seconds`` and ``cpu_seconds`` are medians. ``flops`` are those that torch counted, the selection with them;
    ``tower_flops`` those of the encoder without the selection, by the shape model.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} is not in a result: choose one of {', '.join(QUANTITIES)}")
    if quantity == "tower_flops":
        return (arm.get("flops_predicted") or {}).get("encoder") if stage == "encoder" else None
    found = (arm.get(quantity) or {}).get(stage)
    if quantity in CLOCKS:
        return found["median"] if found else None
    if found is None and quantity == "flops" and stage in PARTS:
        parts = [value(arm, part, "flops") for part in PARTS[stage] if part != "preprocess"]
        return sum(part for part in parts if part is not None) if None not in parts else None
    return found


def ratio(arm: dict[str, Any], to: dict[str, Any] | None, stage: str, quantity: Quantity = "seconds") -> float | None:
    """Return what `arm` took at `stage` as a share of what the base `to` took, None where either is missing."""
    mine, its = value(arm, stage, quantity), value(to, stage, quantity) if to is not None else None
    return mine / its if mine is not None and its else None


def overhead(
    arm: dict[str, Any], to: dict[str, Any] | None, stage: str, quantity: Quantity = "seconds"
) -> float | None:
    """Return the time ratio over the FLOP ratio: 1 where the clock follows the FLOPs, more where it lags behind.

    For the encoder the FLOPs are those without the selection, so that the cost of choosing counts as overhead.
    """
    flops = ratio(arm, to, stage, "tower_flops" if stage == "encoder" else "flops")
    times = ratio(arm, to, stage, quantity)
    return times / flops if times is not None and flops else None


def spread(
    arm: dict[str, Any], to: dict[str, Any] | None, stage: str, quantity: Quantity = "seconds"
) -> tuple[float, float] | None:
    """Return the 10th and 90th percentile of the ratio run by run: arms are interleaved, so runs come in pairs."""
    if to is None:
        return None
    mine, its = (((one.get(quantity) or {}).get(stage) or {}).get("all") or [] for one in (arm, to))
    if len(mine) != len(its) or len(mine) < 2 or not all(its):
        return None
    tenths = quantiles([a / b for a, b in zip(mine, its, strict=True)], n=10, method="inclusive")
    return tenths[0], tenths[-1]


def clock(result: dict[str, Any], arm: dict[str, Any]) -> Literal["seconds", "cpu_seconds"]:
    """Return which clock an encoder is judged by: processor time where one thread of a CPU did all of the work.

    Processor time leaves out what other processes took from a shared machine; everywhere else it is the wall clock.
    """
    alone = str(result.get("device", "")).startswith("cpu") and result.get("threads") == 1
    return "cpu_seconds" if alone and arm.get("cpu_seconds") else "seconds"


def label(cell: dict[str, Any]) -> str:
    """Return a cell's input in words: ``64 frames, batch 1``."""
    words = []
    for what in ("images", "frames"):
        if cell.get(what):
            words.append(f"{cell[what]} {what if cell[what] != 1 else what[:-1]}")
    return ", ".join([*words, f"batch {cell['batch']}"])
