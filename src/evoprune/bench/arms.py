"""The arms of a comparison: the model as shipped, without what nobody reads, and with each pruner."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..apply import Handle, apply
from ..models import Family, find
from ..ops import kernels
from ..pruners import EncoderPruner, EvoPrune, Pruner


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes
    ----------
    name
        Unique in a result: ``native``, ``native-read``, ``evoprune 64``, ``evoprune 64 naive``.
    kind
        ``native``, ``native-read`` or ``pruned``.
    naive
        Whether it runs the plain torch path instead of the fast one.
    mode
        How the tower runs (`encoder_mode` of `evoprune.apply`).
    """

    name: str
    kind: str
    pruner: Pruner | None = None
    naive: bool = False
    mode: str = "eager"


def make(pruners: Sequence[Pruner], *, native_read: bool = True, naive: bool = False, mode: str = "eager") -> list[Arm]:
    """Return the arms in the order in which they are listed: the native ones first.

    Parameters
    ----------
    native_read
        Whether the model has layers nobody reads, and the arm without them is wanted.
    naive
        Also run each method inside the encoder on the plain torch path.
    mode
        How the tower of every arm but the native one runs.
    """
    arms = [Arm("native", "native")]
    if native_read:
        arms.append(Arm("native-read", "native-read", EvoPrune(keep=1.0)))
    seen: set[str] = set()
    for pruner in pruners:
        name = f"{pruner.name} {'all' if isinstance(pruner.keep, float) and pruner.keep == 1.0 else pruner.keep}"
        if name in seen:
            raise ValueError(f"{name!r} is asked for twice: give each method and each keep once")
        seen.add(name)
        arms.append(Arm(name, "pruned", pruner, mode=mode))
        if naive and isinstance(pruner, EncoderPruner):
            arms.append(Arm(f"{name} naive", "pruned", pruner, naive=True))
    return arms


def has_unread(family: Family) -> bool:
    """Whether the model runs layers of its tower that nobody reads."""
    return max(family.feature_layers) < len(family.blocks)


def twin(model: nn.Module) -> Any:
    """Return a copy of the model's structure around the very same weights, to be pruned on its own."""
    memo = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


class Live:
    """An arm on a model of its own, pruned once and for all; or the reason why that cannot be.

    Attributes
    ----------
    error
        The library's own sentence, None where the arm can run.
    """

    def __init__(self, arm: Arm, model: Any, options: Mapping[str, Any]):
        self.arm, self.model = arm, model if arm.pruner is None else twin(model)
        self.handle: Handle | None = None
        self.error: str | None = None
        if arm.pruner is not None:
            try:
                self.handle = apply(self.model, arm.pruner, **options, encoder_mode=arm.mode)
            except ValueError as error:
                self.error = " ".join(str(error).split())
        self.family: Family = self.handle._entry.family if self.handle is not None else find(self.model)

    @contextmanager
    def path(self, plain: bool = False) -> Iterator[None]:
        """Run on the path of this arm, or in any case on the plain one."""
        with kernels.reference_path() if plain or self.arm.naive else nullcontext():
            yield

    @property
    def merges(self) -> bool:
        """Whether blocks of the tower merge or are tapped, so that the selection is to be seen from inside."""
        return self.handle is not None and (bool(self.handle._entry.tower.blocks) or self.handle._entry.tower.tapped)

    @property
    def runs(self) -> str:
        """``fast`` or ``naive``."""
        return "fast" if not self.arm.naive and kernels.fast() else "naive"
