"""Measures the arms of one cell: what they count and hold, then their times, interleaved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from .. import flops
from ..models.plan import Budget
from .arms import Arm, Live
from .calls import Caller, Reading
from .results import STAGES

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rounds:
    """How often everything runs.

    Attributes
    ----------
    repeats
        Timed rounds, in which every arm has a turn.
    warmup
        Untimed rounds behind the two that count FLOPs and watch memory.
    selection
        Rounds, of the timed ones, in which the encoder runs once more with a closer look at the selection.
    """

    repeats: int = 5
    warmup: int = 0
    selection: int = 3

    @property
    def total(self) -> int:
        """Rounds with a turn of every arm."""
        return 2 + self.warmup + self.repeats


def order(count: int, turn: int) -> list[int]:
    """Return the order of `count` arms in a round: the same circle, begun one further each time."""
    return [(turn + i) % count for i in range(count)]


def measure(
    arms: Sequence[Arm],
    model: Any,
    caller: Caller,
    rounds: Rounds,
    options: Mapping[str, Any],
    advance: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Return what is written of each arm in a result file.

    Parameters
    ----------
    model
        The model as it is; pruned arms run on twins of it that share its weights.
    advance
        Told what is done now, once for each turn of an arm.
    """
    lives = [Live(arm, model, options) for arm in arms]
    found: list[dict[str, Any]] = [{} for _ in arms]
    for number, live in enumerate(lives):
        advance(f"{live.arm.name}: counting")
        found[number] |= _run(live, _counts, model, caller, options) or {}
    for number, live in enumerate(lives):
        advance(f"{live.arm.name}: memory")
        peaks = _run(live, caller.remembered)
        found[number] |= {} if peaks is None else {"memory": peaks[0], "memory_held": peaks[1]}
    readings: list[list[Reading]] = [[] for _ in arms]
    looks: list[list[tuple[float, float | None]]] = [[] for _ in arms]
    for turn in range(rounds.warmup + rounds.repeats):
        timed = turn - rounds.warmup
        for place in order(len(lives), turn):
            live = lives[place]
            advance(f"{live.arm.name}: " + ("warming up" if timed < 0 else f"run {timed + 1} of {rounds.repeats}"))
            reading = _run(live, caller.timed, turn)
            if timed >= 0 and reading is not None:
                readings[place].append(reading)
            if 0 <= timed < rounds.selection and live.merges and live.arm.mode == "eager":
                look = _run(live, caller.selection, turn)
                looks[place] += [] if look is None else [look]
    return [_written(*parts) for parts in zip(lives, found, readings, looks, strict=True)]


def _run(live: Live, call: Callable[..., Result], *rest: Any) -> Result | None:
    """Run a call of an arm; where it cannot be, note why, and leave the arm out from then on."""
    if live.error is not None:
        return None
    try:
        return call(live, *rest)
    except (ValueError, torch.OutOfMemoryError) as error:  # counts that only the pictures tell, or too many of them
        live.error = " ".join(str(error).split())
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the other arms need not suffer
        return None


def _counts(live: Live, model: Any, caller: Caller, options: Mapping[str, Any]) -> dict[str, Any]:
    """Count FLOPs and tokens; an arm whose tower is compiled or captured is counted on an eager twin."""
    eager = live if live.arm.mode == "eager" else Live(replace(live.arm, mode="eager"), model, options)
    pixels = caller.turn(0).pixels
    seen: dict[str, Any] = {}

    def watch(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        names = eager.handle._entry.tower.names if eager.handle is not None else _names(module)
        if not seen:
            seen["grids"] = eager.family.items({**dict(zip(names, args, strict=False)), **kwargs})

    hook = eager.family.tower.register_forward_pre_hook(watch, with_kwargs=True, prepend=True)
    try:
        counted = caller.counted(eager)
    finally:
        hook.remove()
    grids, family = seen["grids"], eager.family
    embedding = sum(_embedding(family.tower, rows * columns) for rows, columns in grids)
    pruners = () if eager.handle is None else eager.handle.pruners
    facts = {
        "visual_tokens": caller.maker.placeholders(caller.shape, pixels, family, pruners),
        "flops": counted,
    }
    if eager.handle is None:
        layers = len(family.blocks)
        units = [family.units(grid) for grid in grids]
        tower = sum(family.tower_flops(grid, (0,) * layers) for grid in grids)
        return facts | {
            "kept": _one(units),
            "tokens": [units[0]] * layers if len(set(units)) == 1 else [[one] * layers for one in units],
            "flops_predicted": {"encoder": tower + embedding, "selection": 0},
        }
    stats = eager.handle.stats
    budgets: list[Budget] = [one for run in eager.handle._entry.state.all_runs for one in run.budgets]
    return facts | {
        "kept": _one([one.selected for one in budgets]),
        "tokens": [list(one) if isinstance(one, tuple) else one for one in stats.tokens],
        "decoder_tokens": [list(one) for one in stats.decoder_tokens],
        "flops_predicted": {"encoder": stats.flops + embedding, "selection": stats.selection_flops},
    }


def _names(tower: nn.Module) -> list[str]:
    import inspect

    return [name for name in inspect.signature(tower.forward).parameters if name != "kwargs"]


def _one(values: Sequence[int]) -> int:
    """Return the number that all items have, else their mean."""
    return values[0] if len(set(values)) == 1 else round(sum(values) / len(values))


def _embedding(tower: nn.Module, patches: int) -> int:
    """Return the FLOPs of the patch embedding, a convolution whose stride is its kernel."""
    for module in tower.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            weight = module.weight
            return flops.linear(patches, weight[0].numel(), weight.shape[0])
    return 0


def _written(
    live: Live,
    facts: dict[str, Any],
    readings: Sequence[Reading],
    looks: Sequence[tuple[float, float | None]],
) -> dict[str, Any]:
    arm, config = live.arm, live.family.tower.config
    written: dict[str, Any] = {
        "name": arm.name,
        "kind": arm.kind,
        "pruner": None if arm.pruner is None else arm.pruner.to_dict(),
        "path": live.runs,
        "encoder_mode": arm.mode,
        "attention": str(getattr(config, "_attn_implementation", None)),
        **facts,
        "error": live.error,
    }
    if live.error is not None:
        return written
    if live.handle is not None:
        written["encoder_mode_ran"] = live.handle.stats.encoder_mode
    seconds = _statistics([one.seconds for one in readings])
    processor = _statistics([one.processor for one in readings])
    if looks:
        seconds["selection"] = _figures([one[0] for one in looks])
        own = [one[1] for one in looks if one[1] is not None]
        if own:
            processor["selection"] = _figures(own)
    written["seconds"] = {name: seconds[name] for name in STAGES if name in seconds}
    written["cpu_seconds"] = {name: processor[name] for name in STAGES if name in processor} or None
    written["unaccounted"] = median(one.unaccounted for one in readings)
    return written


def _statistics(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    names = rows[0] if rows else ()
    return {name: _figures([row[name] for row in rows]) for name in names}


def _figures(values: Sequence[float]) -> dict[str, Any]:
    low, high = np.percentile(values, (10, 90))
    return {"median": median(values), "p10": float(low), "p90": float(high), "all": [float(one) for one in values]}
