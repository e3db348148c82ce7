"""One reversible call: a model and one or more pruners become a model that runs with fewer visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .models import find, unwrap
from .models.entry import Entry
from .models.features import install_features
from .models.hooks import install_tower
from .models.plan import Plan, make_plan
from .models.positions import install_positions
from .models.processor import PATCHED, patch_processor
from .models.state import TowerState
from .models.undo import refuse_copies, set_attribute
from .pruners import Pruner

APPLIED = "_evoprune_handle"


class Stats:
    """Facts about the last forward or generate of a model with pruners; everything is computed when it is read."""

    def __init__(self, plan: Plan, state: TowerState, entry: Entry):
        self._plan, self._state, self._entry = plan, state, entry

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patch tokens of an image that leave each layer of the tower that runs, CLS not counted."""
        return self._plan.tokens

    @property
    def flops(self) -> int:
        """FLOPs of the tower's layers for all images of the last forward, by the shape model of `evoprune.flops`."""
        return self._plan.flops * self._state.run.images

    @property
    def selection_flops(self) -> int:
        """FLOPs that choosing the pairs added in the last forward, not counted in `flops`."""
        return self._plan.selection_flops * self._state.run.images

    @property
    def milliseconds(self) -> float | None:
        """Time of the last generate or forward; on a GPU by CUDA events, which reading waits for. None before."""
        return self._entry.timer.milliseconds

    @property
    def sources(self) -> Tensor | None:
        """Which survivor stands for each original patch, int64 (I, N), -1 where it was dropped; None without images."""
        return self._state.run.sources()

    @property
    def positions(self) -> Tensor | None:
        """Original raster index of each survivor, int64 (I, K); None without images."""
        return self._state.run.positions()

    @property
    def visual_tokens(self) -> tuple[int, ...]:
        """Placeholders in the language model of each image of the last call."""
        return self._entry.images or (self._plan.count.short,) * self._state.run.images

    def __repr__(self) -> str:
        return f"Stats(tokens={self.tokens}, flops={self.flops}, visual_tokens={self.visual_tokens})"


class Handle:
    """What `apply` returns: `remove()` restores the model, `with` does it at the end of the block.

    Attributes
    ----------
    pruners
        The pruners in force.
    stats
        Facts about the last forward.
    """

    def __init__(self, plan: Plan, state: TowerState, entry: Entry, stack: ExitStack):
        self.pruners: tuple[Pruner, ...] = plan.pruners
        self.stats = Stats(plan, state, entry)
        self._entry, self._stack = entry, stack

    def remove(self) -> None:
        """Restore the model, after a call in another thread has ended; a second call does nothing."""
        with self._entry.lock:
            self._stack.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def apply(model: nn.Module, pruners: Pruner | Sequence[Pruner], processor: Any = None) -> Handle:
    """Prune visual tokens in `model` from now on, until the handle is removed.

    The user's processor, pipeline and `generate` calls stay as they are. `generate` returns the user's own prompt in
    front of the answer; the logits of a plain `forward` have the length of the shortened prompt.

    Parameters
    ----------
    model
        A transformers model of a family in `evoprune.models.FAMILIES`, or a PEFT or compile wrapper of one.
    pruners
        One pruner, or several of different stages.
    processor
        Optional: also patched to write short prompts itself (`patch_processor`).

    Returns
    -------
    Handle
        `remove()` brings back bit-identical logits; a context manager too.

    Raises
    ------
    UnsupportedModel
        No family knows this model.
    ValueError
        A pruner is applied already, or the counts do not fit the model. The model is left as it was.
    """
    model = unwrap(model)
    family = find(model)
    if APPLIED in family.base.__dict__ or APPLIED in family.tower.__dict__:
        raise ValueError("this model has a pruner applied already: call remove() on its handle first")
    plan = make_plan(family, (pruners,) if isinstance(pruners, Pruner) else tuple(pruners))
    state = TowerState(plan, family.prefix)
    with ExitStack() as stack:
        if processor is not None:
            stack.callback(patch_processor(processor, plan.pruners).remove)
        tower = install_tower(family, plan, state, stack)
        install_features(family, state, stack)
        entry = Entry(family, state, tower, prefer_short=bool(processor and processor.__dict__.get(PATCHED)))
        if plan.original_positions:
            install_positions(family, entry.positions, entry.resolve, stack)
        entry.install(stack)
        for owner in {id(one): one for one in (family.model, family.base, family.tower)}.values():
            refuse_copies(owner, stack)
        for owner in (family.base, family.tower):
            set_attribute(owner, APPLIED, True, stack)
        return Handle(plan, state, entry, stack.pop_all())
