"""What leaves a packed tower's mergers, while upstream's own code goes on with a stand-in of the native shape.

Upstream cuts the merger's output by the grids and puts windows back in order, both for the native number of tokens. So
the merger's rows are kept (`note`), zeros of the native shape go on, and are replaced in the end (`settle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.indexing import rows
from .features import pick, pick_projected
from .packed import Feature, packing
from .state import Group, Run, TowerState


def install_merger(merger: nn.Module, state: TowerState, stack: ExitStack) -> None:
    """Let the main merger take what the feature stage picks, or pick of what it gives, and keep its rows."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (pick(state, args[0]), *args[1:]) if state.run.pruned else None

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        run = state.run
        if not run.pruned:
            return None
        return note(run, pick_projected(state, output), [budget.selected for budget in run.budgets])

    stack.callback(merger.register_forward_pre_hook(before).remove)
    stack.callback(merger.register_forward_hook(after).remove)


def install_level(merger: nn.Module, state: TowerState, stack: ExitStack) -> None:
    """Keep the rows of the merger of an earlier layer (deepstack): they merge along with what merges later."""

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return note(state.run, output, state.run.lefts) if state.run.pruned else None

    stack.callback(merger.register_forward_hook(after).remove)


def settle(output: Any, runs: Sequence[Run]) -> None:
    """Put the survivors in the place of the stand-ins, in `pooler_output` and `deepstack_features`; once.

    Raises
    ------
    ValueError
        A tuple, which cannot be changed.
    """
    if not any(run.pruned and packing(run).features for run in runs):
        return
    if isinstance(output, tuple):
        raise ValueError("a pruned vision tower cannot return a tuple: leave out return_dict=False")
    deep = getattr(output, "deepstack_features", None)
    if deep is not None:
        output.deepstack_features = [replaced(one, i, runs) for i, one in enumerate(deep)]
    output.pooler_output = replaced(output.pooler_output, -1, runs)
    for run in runs:
        run.stash = None
        for group in run.groups:
            group.combine = None


def note(run: Run, rows: Tensor, lefts: list[int]) -> Tensor:
    """Keep a merger's rows (U, C) and return zeros of the shape that upstream expects."""
    packing(run).features.append(
        Feature(rows, lefts, [len(group.matchings) for group in run.groups], [group.sizes for group in run.groups])
    )
    return rows.new_zeros((1, rows.shape[1])).expand(sum(budget.entering for budget in run.budgets), -1)


def survivors_of(run: Run, feature: Feature) -> list[Tensor]:
    """Return each item's rows (K, C) of a feature, merged and picked as the tower's own, in the order that leaves."""
    parts = feature.rows.split(feature.lefts)
    values = [_caught_up(feature, i, group, parts) for i, group in enumerate(run.groups)]
    return run.by_item([list(value) for value in values])


def _caught_up(feature: Feature, number: int, group: Group, parts: Sequence[Tensor]) -> Tensor:
    units, sizes = torch.stack([parts[item] for item in group.items]), feature.sizes[number]
    encoder: Any = group.plan.encoder
    for matching in group.matchings[feature.merged[number] :]:
        if sizes is None:
            sizes = torch.ones(units.shape[:2], dtype=torch.float32, device=units.device)
        units, sizes = encoder.merge(units, sizes, matching)
    if group.combine is not None and units.shape[1] > group.budget.selected:  # the main feature is picked already
        units = group.combine(units)
    order = group.leaving()
    return units if order is None else rows(units, order)


def replaced(value: Any, number: int, runs: Sequence[Run]) -> Any:
    """Return the survivors in place of stand-ins: a tensor for a tensor, one a picture for those cut by picture.

    Parameters
    ----------
    value
        The `number`-th feature as upstream returns it, of the native number of tokens in all.
    """
    flat = value if isinstance(value, Tensor) else None
    items: list[Tensor] = []
    natives = [budget.entering for run in runs for budget in run.budgets]
    for run in runs:
        if run.pruned:
            items += survivors_of(run, packing(run).features[number])
            continue
        flat = torch.cat(list(value)) if flat is None else flat
        first = sum(natives[: len(items)])
        lengths = [budget.entering for budget in run.budgets]
        items += flat[first : first + sum(lengths)].split(lengths)
    if isinstance(value, Tensor):
        return torch.cat(items)
    pictures, item = [], 0
    for picture in value:
        begin, left = item, len(picture)
        while left > 0:
            left -= natives[item]
            item += 1
        pictures.append(torch.cat(items[begin:item]))
    return type(value)(pictures)
