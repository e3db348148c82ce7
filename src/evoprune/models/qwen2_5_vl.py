"""Qwen2.5-VL: most layers attend inside windows, whose units stand together in the tower; the others see all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from .base import Count, Grid, Segment
from .packed import packing
from .qwen2_vl import Qwen2VL
from .state import Run, TowerState
from .undo import set_attribute


class Qwen25VL(Qwen2VL):
    """`Qwen2_5_VLForConditionalGeneration`: units merge where the whole picture attends, windows shrink behind."""

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)
    towers = "Qwen2.5-VL ViT with windows, any size"
    examples = ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")

    @property
    def width(self) -> int:
        return int(self.base.visual.config.hidden_size)

    @property
    def merging_layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.base.visual.fullatt_block_indexes))

    def _segments(
        self, one: Count, grid: tuple[int, int, int], number: int, arguments: Mapping[str, Any]
    ) -> list[Segment]:
        seconds = arguments.get("second_per_grid_ts")  # of videos
        each = None if seconds is None or number >= len(seconds) else float(seconds[number])
        return [Segment(Count(grid[0] * one.full, grid[0] * one.short), grid[0], (*grid, each))]

    def _sequences(self, run: Run, rows: Tensor, lengths: Tensor) -> Tensor:
        if len(lengths) == run.images + 1:  # a sequence an item, of a length known from shapes
            return super()._sequences(run, rows, lengths)
        kept = packing(run).kwargs
        if "windows" not in kept:
            window = torch.searchsorted(lengths[1:].long(), rows.to(lengths.device), right=True)
            counts = torch.zeros(len(lengths) - 1, dtype=torch.long, device=lengths.device)
            counts.scatter_add_(0, window, torch.ones_like(window))
            borders = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(lengths.dtype)
            if "flash" not in str(self.base.visual.config._attn_implementation):
                borders = torch.unique_consecutive(borders)  # empty windows; upstream cuts by lengths on the CPU here
            kept["windows"] = borders
        return kept["windows"]

    def install(self, state: TowerState, stack: ExitStack) -> None:
        encoder = state.plan.encoder
        if encoder is not None and encoder.order != "raster":
            raise ValueError(f"order={encoder.order!r} would tear the windows of {self.name} apart: use order='raster'")
        super().install(state, stack)
        original = self.base.visual.permute_input_for_window_attn

        def permute(input_tensor: Tensor, window_index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            _note_order(state.run, window_index)
            return original(input_tensor, window_index, *args, **kwargs)

        set_attribute(self.tower, "permute_input_for_window_attn", permute, stack)

    def tower_flops(self, grid: Grid, merges: Sequence[int]) -> int:
        config: Any = self.tower.config
        unit, width = self.unit_side**2, config.hidden_size
        side = config.window_size // self.unit_side // self.patch_size
        rows, columns = (_squares(length // self.unit_side, side) for length in grid)
        total, tokens, full = 0, self.units(grid) * unit, self.units(grid) * unit
        for layer, merged in enumerate(merges):
            pairs = tokens**2
            if layer not in self.merging_layers:  # windows taken to shrink evenly
                pairs = rows * columns * unit**2 * tokens**2 // full**2
            left = tokens - unit * merged
            total += 8 * tokens * width**2 + 4 * pairs * width + 6 * left * width * config.intermediate_size
            tokens = left
        return total


def _squares(length: int, side: int) -> int:
    """Return the sum of the squares of the parts of `length` cut every `side`."""
    return sum(min(side, length - start) ** 2 for start in range(0, length, side))


def _note_order(run: Run, window_index: Tensor) -> None:
    """Let each group know the raster index of its units as the windows order them."""
    first = [0]
    for budget in run.budgets:
        first.append(first[-1] + budget.entering)
    for group in run.groups:
        if group.start is None:
            begin = first[group.items[0]]
            group.start = window_index[begin : begin + group.budget.entering] - begin
