"""One bench: a model, pruners and shapes become a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..apply import apply
from ..models import Family, find
from ..ops import kernels
from ..pruners import Pruner
from . import arms as sides
from . import memory
from .arms import Arm
from .calls import Caller
from .inputs import Maker, Shape
from .measure import Rounds, measure
from .sweep import Sweep


@dataclass(frozen=True)
class Plan:
    """What is to be measured, as far as it does not depend on the model's weights.

    Attributes
    ----------
    options
        What `evoprune.apply` is given beside the pruner.
    decode
        Tokens generated behind the first one.

    Raises
    ------
    ValueError
        A pruner acts inside the language model, and only the encoder shall run.
    """

    pruners: Sequence[Pruner]
    shapes: Sequence[Shape]
    stages: str = "all"
    rounds: Rounds = field(default_factory=Rounds)
    options: Mapping[str, Any] = field(default_factory=dict)
    native_read: bool = True
    naive: bool = False
    mode: str = "eager"
    decode: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        inside = [pruner.name for pruner in self.pruners if pruner.stage == "decoder"]
        if inside and self.stages == "encoder":
            raise ValueError(
                f"{inside[0]} acts inside the language model, which stages='encoder' does not run: measure all stages"
            )

    def arms(self, family: Family) -> list[Arm]:
        """Return the arms for a model of `family`."""
        read = self.native_read and sides.has_unread(family)
        return sides.make(self.pruners, native_read=read, naive=self.naive, mode=self.mode)

    def configuration(self) -> dict[str, Any]:
        """Return what a result that is to be continued must have been measured with."""
        return {
            "pruners": [pruner.to_dict() for pruner in self.pruners],
            "options": dict(self.options),
            "repeats": self.rounds.repeats,
            "warmup": self.rounds.warmup,
            "native_read": self.native_read,
            "naive": self.naive,
            "encoder_mode": self.mode,
            "decode_tokens": self.decode,
            "seed": self.seed,
        }


def try_pruners(skeleton: Any, pruners: Sequence[Pruner], options: Mapping[str, Any]) -> None:
    """Refuse, on a model without weights, a `keep` that none of the methods can do.

    A method that alone cannot do what others can is no mistake: its arm says so in the result.
    """
    refusals: dict[int | float, list[ValueError | None]] = {}
    for pruner in pruners:
        refusal: ValueError | None = None
        try:
            apply(skeleton, pruner, **options).remove()
        except ValueError as error:
            refusal = error
        refusals.setdefault(pruner.keep, []).append(refusal)
    for errors in refusals.values():
        if all(errors):
            raise errors[0]  # type: ignore[misc]


def check_memory(
    name: str, skeleton: Any, maker: Maker, plan: Plan, dtype: torch.dtype, device: torch.device, attention: str
) -> int:
    """Return the bytes needed; ValueError where there are fewer."""
    needed = memory.weights(skeleton, dtype) + max(
        memory.activations(maker.family, maker, shape, dtype, plan.stages, attention) for shape in plan.shapes
    )
    memory.check(name, needed, device)
    return needed


def bench(
    model: Any,
    maker: Maker,
    plan: Plan,
    sweep: Sweep,
    begin: Callable[[Shape, int], Callable[[str], None]] = lambda shape, steps: lambda what: None,
) -> dict[str, Any]:
    """Measure all cells that `sweep` has not yet, and return its result.

    Parameters
    ----------
    begin
        Told of each cell and its number of steps; returns what is told of each step.
    """
    device, dtype = model.device, model.dtype
    arms = plan.arms(find(model))

    def cell(shape: Shape) -> dict[str, Any]:
        caller = Caller(maker, shape, plan.stages, device, dtype, plan.decode)
        found = measure(arms, model, caller, plan.rounds, plan.options, begin(shape, plan.rounds.total * len(arms)))
        sweep.result["kernels"] = kernels.status()
        return {
            "images": shape.images,
            "frames": shape.frames,
            "batch": shape.batch,
            "repeats": plan.rounds.repeats,
            "warmup": 2 + plan.rounds.warmup,
            "prompt_tokens": maker.prompt,
            "arms": found,
        }

    return sweep.run(plan.shapes, cell)


def settle(model: Any) -> Any:
    """Let every answer of a model have the length asked for."""
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        settings.eos_token_id = None
        settings.pad_token_id = 0
    return model.eval()


def facts(
    *, model: str, preset: dict[str, Any] | None, stages: str, dtype: torch.dtype, device: torch.device, attention: str
) -> dict[str, Any]:
    """Return the head of a result."""
    return {
        "model": model,
        "preset": preset,
        "stages": stages,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "attention": attention,
        "threads": torch.get_num_threads(),
    }
