"""One run of times: the arms of one budget and the unpruned model, interleaved by `evoprune.bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...bench.manifest import processor_name
from ...bench.measure import Rounds
from ...bench.measure import measure as timed
from ...bench.results import BASES, STAGES
from ...bench.run import settle
from ..arms import Arm
from .arms import Callers, sides

KEPT = tuple(name for name in STAGES if name not in ("selection", "whole"))  # both belong to other stages


def configuration(
    model: Any,
    options: Mapping[str, str],
    frames: int | None,
    batch: int,
    repeats: int,
    decode: int,
    picture: tuple[int, int],
) -> dict[str, Any]:
    """Return what all times of one file share."""
    return {
        "device": model.device.type,
        "machine": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "frames": frames,
        "picture": list(picture),
        "batch": batch,
        "repeats": repeats,
        "decode": decode,
        "options": dict(options),
    }


def run(
    model: Any,
    processor: Any,
    arms: Sequence[Arm],
    told: Mapping[str, Any],
    defaults: Mapping[str, Any],
    options: Mapping[str, str],
    advance: Callable[[str], None],
) -> dict[str, Any]:
    """Time the arms of one budget beside the unpruned model."""
    tokenizer = getattr(processor, "tokenizer", None)
    given = {**options, **({} if tokenizer is None else {"tokenizer": tokenizer})}
    callers = Callers(model, processor, told)
    running, refused = sides(model, arms, defaults, bool(options), callers)
    with _settled(model):
        found = timed(running, model, callers, Rounds(told["repeats"], selection=0), given, advance)  # type: ignore[arg-type]
    clock = "cpu_seconds" if told["device"] == "cpu" and told["threads"] == 1 else "seconds"
    written = {arm["name"]: _brief(arm, clock) for arm in found}
    for name, tokens in callers.tokens.items():
        written[name]["tokens"] = tokens
    bases = [{"kind": arm["kind"], **written[arm["name"]]} for arm in found if arm["kind"] in BASES]
    entries = [{"arm": arm.to_dict(), **written.get(arm.slug, {"error": refused.get(arm.slug)})} for arm in arms]
    return {"clock": clock, "bases": bases, "arms": entries}


def _brief(arm: Mapping[str, Any], clock: str) -> dict[str, Any]:
    """What is kept of an arm: its error, tokens, FLOPs up to the first token, and the figures of each stage."""
    if arm["error"]:
        return {"error": arm["error"]}
    times = arm.get(clock) or {}
    return {
        "error": None,
        "tokens": arm.get("visual_tokens"),
        "flops": (arm.get("flops") or {}).get("whole"),
        "times": {
            stage: {name: round(times[stage][name], 9) for name in ("median", "p10", "p90")}
            for stage in KEPT
            if stage in times
        },
    }


@contextmanager
def _settled(model: Any) -> Iterator[None]:
    """Let answers have the length asked for, and the model be as it was behind."""
    settings, training = getattr(model, "generation_config", None), model.training
    before = {name: getattr(settings, name, None) for name in ("eos_token_id", "pad_token_id")}
    settle(model)
    try:
        yield
    finally:
        model.train(training)
        for name, was in before.items():
            if settings is not None:
                setattr(settings, name, was)
