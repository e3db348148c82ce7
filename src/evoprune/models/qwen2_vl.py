"""Qwen2-VL: pictures of any size packed into one sequence, units of 2 x 2 patches, M-RoPE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import flops
from ..pruners import Pruner
from .base import PIXELS, BlockSpec, Count, Family, Grid, Modality, Segment, UnsupportedModel
from .forms import Packed
from .mrope import rope_table
from .packed import packing, rows_left
from .parts import packed_parts
from .prompt import Layout
from .standins import install_merger, settle
from .state import Run, TowerState


class Qwen2VL(Family):
    """`Qwen2VLForConditionalGeneration`: each picture, and each pair of frames of a video, attends to itself alone.

    Qwen2.5-VL and Qwen3-VL build on it.
    """

    name = "Qwen2-VL"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    examples = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")
    towers = "Qwen2-VL ViT, any size"
    block = BlockSpec(attn="attn", norm2="norm2", mlp="mlp")
    modalities = ("image", "video")
    stages = ("encoder", "feature", "decoder")
    uniform = False
    picks_itself = True
    mrope = True
    repeats_rows = True

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        if not hasattr(self.base, "visual") or not hasattr(self.base.visual, "merger"):
            raise UnsupportedModel(f"{type(model).__name__} has no visual.merger: it is no {self.name} model")

    @property
    def tower(self) -> nn.Module:
        return self.base.visual

    @property
    def projector(self) -> nn.Module:
        return self.base.visual.merger

    @property
    def form(self) -> Packed:
        return Packed(self.unit_side)

    @property
    def unit_side(self) -> int:
        return int(self.base.visual.config.spatial_merge_size)

    @property
    def width(self) -> int:
        return int(self.base.visual.config.embed_dim)

    @property
    def video_token_id(self) -> int:
        return int(self.base.config.video_token_id)

    # Counts.

    def items(self, arguments: Mapping[str, Any]) -> list[Grid]:
        return [(rows, columns) for frames, rows, columns in arguments["grid_thw"].tolist() for _ in range(frames)]

    def segments(
        self, arguments: Mapping[str, Any], modality: Modality, pruners: Sequence[Pruner]
    ) -> list[Segment] | None:
        grids = arguments.get(f"{modality}_grid_thw")
        features = (arguments.get("mm_encoder_outputs") or {}).get(modality)
        pixels = arguments.get(PIXELS[modality])
        if grids is None and pixels is not None:
            raise ValueError(
                f"{PIXELS[modality]} came without {modality}_grid_thw, which says how large the {modality}s are: pass "
                "on all that the processor returns"
            )
        if grids is None or (pixels is None and features is None):
            return None
        return [
            segment
            for number, (frames, rows, columns) in enumerate(grids.tolist())
            for segment in self._segments(
                self.tokens_after(pruners, (rows, columns), modality), (frames, rows, columns), number, arguments
            )
        ]

    def _segments(
        self, one: Count, grid: tuple[int, int, int], number: int, arguments: Mapping[str, Any]
    ) -> list[Segment]:
        """Return the segments of one picture or video, of whose frames each counts `one`."""
        return [Segment(Count(grid[0] * one.full, grid[0] * one.short), grid[0], grid)]

    def offsets(self, segment: Segment, survivors: Sequence[Tensor]) -> Tensor:
        units = segment.count.full // segment.items
        return torch.cat([places + i * units for i, places in enumerate(survivors)])

    def position_table(self, layout: Layout, columns: Tensor, generating: bool) -> tuple[Tensor, Tensor]:
        return rope_table(self.base, layout, columns, generating)

    def tower_flops(self, grid: Grid, merges: Sequence[int]) -> int:
        config: Any = self.tower.config
        unit, mlp = self.unit_side**2, int(config.embed_dim * config.mlp_ratio)
        return flops.tower(self.units(grid) * unit, [unit * r for r in merges], self.width, mlp)

    # What happens in a call.

    def chunks(self, arguments: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
        return packed_parts(arguments, size)

    def block_arguments(self, run: Run, arguments: dict[str, Any]) -> dict[str, Any]:
        rows, kept = rows_left(run, self.unit_side**2), packing(run).kwargs
        if "position_embeddings" not in kept:
            kept["position_embeddings"] = tuple(one[rows.to(one.device)] for one in arguments["position_embeddings"])
        lengths = self._sequences(run, rows, arguments["cu_seqlens"])
        return {**arguments, "position_embeddings": kept["position_embeddings"], "cu_seqlens": lengths}

    def _sequences(self, run: Run, rows: Tensor, lengths: Tensor) -> Tensor:
        """Return the borders of what is left of the sequences that `lengths` had, int32 (sequences + 1,)."""
        kept = packing(run).kwargs
        if "cu_seqlens" not in kept:
            borders = torch.tensor([0, *run.lefts]).cumsum(0) * self.unit_side**2
            kept["cu_seqlens"] = borders.to(lengths.device, lengths.dtype)
        return kept["cu_seqlens"]

    def install(self, state: TowerState, stack: ExitStack) -> None:
        def after_tower(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not state.encoding:  # the tower was called by itself, and nobody cuts its output
                settle(output, [state.run])

        install_merger(self.projector, state, stack)
        stack.callback(self.tower.register_forward_hook(after_tower).remove)

    def finish(self, output: Any, modality: Modality, state: TowerState) -> None:
        settle(output, state.runs.get(modality, []))
