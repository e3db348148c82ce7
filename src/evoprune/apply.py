"""One reversible call: a model and one or more pruners become a model that runs with fewer visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .models import Family, find, unwrap
from .models.decoder import Decoder
from .models.entry import Entry
from .models.features import install_features
from .models.graphs import Graphs, install_graphs
from .models.hooks import install_tower
from .models.plan import Plan
from .models.positions import install_positions
from .models.processor import PATCHED, patch_processor
from .models.state import TowerState
from .models.undo import refuse_copies, set_attribute
from .pruners import Pruner

APPLIED = "_evoprune_handle"


class Stats:
    """Facts about the last forward or generate of a model with pruners; everything is computed when it is read."""

    def __init__(self, plan: Plan, state: TowerState, entry: Entry, graphs: Graphs | None = None):
        self._plan, self._state, self._entry, self._graphs = plan, state, entry, graphs

    @property
    def tokens(self) -> tuple[Any, ...]:
        """Units of a picture that leave each layer of the tower that runs, CLS not counted.

        A unit is a patch, or in families whose projector joins several patches a square of them. Where the pictures of
        the last forward differ in size: one such tuple for each.
        """
        budgets = [budget for run in self._state.all_runs for budget in run.budgets]
        budgets = budgets or ([self._plan.fixed] if self._plan.fixed is not None else [])
        counts = [budget.tokens for budget in budgets]
        return counts[0] if len(set(counts)) == 1 else tuple(counts)

    @property
    def flops(self) -> int:
        """FLOPs of the tower's layers for all images of the last forward, by the shape model of `evoprune.flops`."""
        return sum(budget.flops for run in self._state.all_runs for budget in run.budgets)

    @property
    def selection_flops(self) -> int:
        """FLOPs that choosing the pairs added in the last forward, not counted in `flops`."""
        return sum(budget.selection_flops for run in self._state.all_runs for budget in run.budgets)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Patches (rows, columns) of every picture, tile or frame of the last forward as the processor made it."""
        return tuple(budget.full for run in self._state.all_runs for budget in run.budgets)

    @property
    def milliseconds(self) -> float | None:
        """Time of the last generate or forward; on a GPU by CUDA events, which reading waits for. None before."""
        return self._entry.timer.milliseconds

    @property
    def sources(self) -> Tensor | list[Tensor] | None:
        """Which survivor stands for each original unit, int64 (I, N), -1 where it was dropped; None without images.

        A row a picture, tile or frame, images before videos; a list of rows where their sizes differ.
        """
        return _stacked([row for run in self._state.all_runs for row in run.sources()])

    @property
    def positions(self) -> Tensor | list[Tensor] | None:
        """Original raster index of each survivor, int64 (I, K), or a list of rows; None without images."""
        return _stacked([row for run in self._state.all_runs for row in run.positions()])

    @property
    def visual_tokens(self) -> tuple[int, ...]:
        """Placeholders in the language model of each image or video of the last call.

        Of each tile or frame where the encoder was called by itself, or the family's prompt does not tell which tiles
        make up a picture.
        """
        shorts = tuple(budget.count.short for run in self._state.all_runs for budget in run.budgets)
        return self._state.images or shorts

    @property
    def decoder_tokens(self) -> tuple[tuple[int, ...], ...]:
        """Visual tokens of each image, video or frame that leave each layer of the language model in the last prefill.

        Empty where no pruner acts inside the language model. The `hidden_states` that a caller asks for have the
        lengths of their layers; what the language model returns last has the prompt's.
        """
        return () if self._entry.decoder is None else self._entry.decoder.left

    @property
    def encoder_mode(self) -> str:
        """How the encoder ran last: ``"eager"`` too where `encoder_mode` of `apply` could not be used."""
        return "eager" if self._graphs is None else self._graphs.ran

    @property
    def options(self) -> dict[str, str]:
        """The choices of the family that are in force, such as its pooling."""
        return dict(self._plan.family.chosen)

    def __repr__(self) -> str:
        return f"Stats(tokens={self.tokens}, flops={self.flops}, visual_tokens={self.visual_tokens})"


def _stacked(rows: list[Tensor]) -> Tensor | list[Tensor] | None:
    if not rows:
        return None
    return torch.stack(rows) if len({len(row) for row in rows}) == 1 else rows


class Handle:
    """What `apply` returns: `remove()` restores the model, `with` does it at the end of the block.

    Attributes
    ----------
    pruners
        The pruners in force.
    stats
        Facts about the last forward.
    """

    def __init__(self, plan: Plan, state: TowerState, entry: Entry, graphs: Graphs | None, stack: ExitStack):
        self.pruners: tuple[Pruner, ...] = plan.pruners
        self.stats = Stats(plan, state, entry, graphs)
        self._entry, self._stack = entry, stack

    def remove(self) -> None:
        """Restore the model, after a call in another thread has ended; a second call does nothing.

        A cache that was filled while tokens were dropped inside the language model is of no use afterwards.
        """
        with self._entry.lock:
            self._stack.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def apply(
    model: nn.Module,
    pruners: Pruner | Sequence[Pruner],
    processor: Any = None,
    *,
    tokenizer: Any = None,
    encoder_batch: int | None = None,
    encoder_mode: str = "eager",
    **options: str,
) -> Handle:
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
    tokenizer
        The language model's, for methods that read the question in words; by default that of `processor`.
    encoder_batch
        Pictures, tiles or frames that go through the tower at a time, so that long videos need no more memory; all by
        default. The results are the same.
    encoder_mode
        For small batches, whose time is launches. ``"eager"``; ``"compile"``: the pruned tower as one graph of
        torch.compile for each shape of its arguments, equal up to rounding; or ``"cudagraph"``: its kernels captured
        once for each shape and replayed in one launch. Gradients, training and requests for every hidden state run
        eagerly, and so does, after one warning, a tower that cannot be one graph (Qwen-VL reads sizes on the host).
    options
        Choices of the model's family, such as ``pool="average"``; the first value of `Family.options` by default.

    Returns
    -------
    Handle
        `remove()` brings back bit-identical logits; a context manager too.

    Raises
    ------
    UnsupportedModel
        No family knows this model.
    TypeError
        `pruners` is neither a pruner nor a list of them.
    ValueError
        A pruner is applied already, the counts do not fit the model, the mode is unknown, ``"cudagraph"`` is asked of a
        tower that is not on one CUDA device, or something that a method needs is missing (a recipe, a text tower, an
        attention backend that can be looked into). The model is left as it was. Where pictures vary in size, counts
        that only some sizes cannot give are refused in the call that has such a picture.
    """
    model = unwrap(model)
    family = find(model, **options)
    _check(family, pruners, encoder_batch)
    plan = Plan(family, (pruners,) if isinstance(pruners, Pruner) else tuple(pruners))
    state = TowerState(plan)
    with ExitStack() as stack:
        stack.callback(state.close)
        if processor is not None:
            stack.callback(patch_processor(processor, plan.pruners).remove)
        graphs = install_graphs(encoder_mode, family, state, stack)  # first: the chunks of install_tower lead there
        tower = install_tower(family, plan, state, stack, encoder_batch)
        family.install(state, stack)
        install_features(family, state, stack, processor if tokenizer is None else tokenizer)
        decoder = Decoder(family, plan.decoder, stack) if plan.decoder is not None else None
        if decoder is not None and family.grid is not None and family.uniform:
            for modality in family.modalities:  # counts that the model cannot give
                decoder.leaves(plan.budget(family.grid, modality).count.short, 1)
        short = bool(processor and processor.__dict__.get(PATCHED))
        entry = Entry(family, state, tower, prefer_short=short, decoder=decoder)
        if plan.original_positions:
            install_positions(family, entry.positions, entry.resolve, stack)
        entry.install(stack)
        for owner in {id(one): one for one in (family.model, family.base, family.tower)}.values():
            refuse_copies(owner, stack)
        for owner in (family.base, family.tower):
            set_attribute(owner, APPLIED, True, stack)
        return Handle(plan, state, entry, graphs, stack.pop_all())


def _check(family: Family, pruners: Any, encoder_batch: Any) -> None:
    if encoder_batch is not None and (type(encoder_batch) is not int or encoder_batch < 1):
        raise ValueError(f"encoder_batch={encoder_batch!r} is no number of pictures: give an int from 1 on, or None")
    if APPLIED in family.base.__dict__ or APPLIED in family.tower.__dict__:
        raise ValueError("this model has a pruner applied already: call remove() on its handle first")
    if not isinstance(pruners, Pruner) and (isinstance(pruners, str) or not isinstance(pruners, Sequence)):
        raise TypeError(f"{pruners!r} is no pruner: give for example evoprune.EvoPrune(keep=64), or a list of pruners")
