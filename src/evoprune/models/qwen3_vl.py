"""Qwen3-VL: features of several layers enter the language model (deepstack), frames stand between time stamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from .. import flops
from .base import Count, Grid, Segment
from .qwen2_vl import Qwen2VL
from .standins import install_level
from .state import TowerState


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration` and its mixture-of-experts form; each pair of frames is a run of its own."""

    name = "Qwen3-VL"
    model_types = ("qwen3_vl", "qwen3_vl_moe")
    towers = "Qwen3-VL ViT with deepstack, any size"
    examples = ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct")

    @property
    def width(self) -> int:
        return int(self.base.visual.config.hidden_size)

    def _segments(
        self, one: Count, grid: tuple[int, int, int], number: int, arguments: Mapping[str, Any]
    ) -> list[Segment]:
        return [Segment(one, 1, (1, *grid[1:]), frame > 0) for frame in range(grid[0])]

    def tower_flops(self, grid: Grid, merges: Sequence[int]) -> int:
        config: Any = self.tower.config
        unit = self.unit_side**2
        return flops.tower(self.units(grid) * unit, [unit * r for r in merges], self.width, config.intermediate_size)

    def install(self, state: TowerState, stack: ExitStack) -> None:
        super().install(state, stack)
        for merger in self.base.visual.deepstack_merger_list:
            install_level(merger, state, stack)
