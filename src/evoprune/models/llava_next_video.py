"""LLaVA-NeXT-Video: images as LLaVA-NeXT has them; each frame of a video is pooled 2 x 2 before the projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import Pruner
from .anyres import arange, frame_cells
from .base import Count, Grid, Modality, Segment, UnsupportedModel
from .llava_next import LlavaNext
from .state import TowerState
from .undo import set_attribute


@dataclass(frozen=True)
class Frames:
    """What `LlavaNextVideo.offsets` needs of a video."""

    side: int
    cells: int
    pruned: bool


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration`; the pooling is left out where frames are pruned."""

    name = "LLaVA-NeXT-Video"
    model_types = ("llava_next_video",)
    examples = ("llava-hf/LLaVA-NeXT-Video-7B-hf", "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf")
    modalities = ("image", "video")

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        if self.base.config.spatial_pool_mode == "conv":
            raise UnsupportedModel(
                "spatial_pool_mode='conv' pools frames with trained weights, which pruned frames cannot leave out: use "
                "a model with 'average' or 'max'"
            )

    @property
    def video_token_id(self) -> int:
        return int(self.base.config.video_token_id)

    def native(self, grid: Grid, modality: Modality = "image") -> int:
        if modality == "image":
            return self.units(grid)
        stride = int(self.base.config.spatial_pool_stride)
        return (grid[0] // stride) * (grid[1] // stride)

    def clips(self, arguments: Mapping[str, Any], pruners: Sequence[Pruner]) -> list[Segment] | None:
        count = self.tokens_after(pruners, modality="video")
        pixels = arguments.get("pixel_values_videos")
        if pixels is not None:
            numbers = [int(pixels.shape[1])] * int(pixels.shape[0])
        elif (features := (arguments.get("mm_encoder_outputs") or {}).get("video")) is not None:
            numbers = [len(one) // count.short for one in features.pooler_output]
        else:
            return None
        key = Frames(self.side, int(count.full**0.5), count.short < count.full)
        return [Segment(Count(n * count.full, n * count.short), n, key) for n in numbers]

    def offsets(self, segment: Segment, survivors: Sequence[Tensor]) -> Tensor:
        key = segment.key
        if not isinstance(key, Frames):
            return super().offsets(segment, survivors)
        if not key.pruned:
            return arange(segment.count.full, survivors)
        cells = [frame_cells(patches, key.side, key.cells) for patches in survivors]
        return torch.cat([frame * key.cells**2 + one for frame, one in enumerate(cells)])

    def install(self, state: TowerState, stack: ExitStack) -> None:
        super().install(state, stack)
        pool: Any = self.base.vision_resampler
        original = pool.forward

        def forward(image_features: Tensor) -> Tensor:
            return image_features if state.run.pruned else original(image_features)

        set_attribute(pool, "forward", forward, stack)
