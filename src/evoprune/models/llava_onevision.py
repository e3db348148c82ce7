"""LLaVA-OneVision, and LLaVA-Video in its form: SigLIP tower, tiles for single images, pooled frames for videos."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import Pruner
from .base import Count, Grid, Modality, Segment
from .clip import Clip
from .llava_next import LlavaNext
from .state import TowerState
from .undo import set_attribute


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`; pooling and newlines of native videos are a choice.

    ``pool="average"`` with ``newline="grid"`` is what LLaVA-Video was trained with (arXiv 2410.02713): 13 x 13 averages
    and a newline behind each row. transformers pools 14 x 14 bilinearly and ends a video with one newline.
    """

    name = "LLaVA-OneVision"
    model_types = ("llava_onevision",)
    examples = ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf")
    towers = "SigLIP so400m-384"
    modalities = ("image", "video")
    options = {"pool": ("hf", "average"), "newline": ("one", "grid", "frame", "none")}  # noqa: RUF012

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        if not self.pooled:
            raise ValueError(f"pool='average' leaves nothing of {self.side} x {self.side} patches: use pool='hf'")

    @property
    def limit(self) -> int:
        return int(self.base.config.vision_aspect_ratio.removeprefix("anyres_max_"))

    @property
    def video_token_id(self) -> int:
        return int(self.base.config.video_token_id)

    @property
    def pooled(self) -> int:
        """Cells a side of a native frame in the pooling in force."""
        return math.ceil(self.side / 2) if self.chosen["pool"] == "hf" else self.side // 2

    def native(self, grid: Grid, modality: Modality = "image") -> int:
        return self.units(grid) if modality == "image" else self.pooled**2

    def check_call(self, arguments: Mapping[str, Any]) -> None:
        super().check_call(arguments)
        asked, planned = arguments.get("vision_aspect_ratio"), self.base.config.vision_aspect_ratio
        if asked not in (None, planned):
            raise ValueError(
                f"vision_aspect_ratio={asked!r} in this call but {planned!r} in model.config, which the counts follow: "
                "set it there, then apply again"
            )

    def cut(self, arguments: Mapping[str, Any], images: int) -> list[bool]:
        numbers = arguments.get("batch_num_images")
        if numbers is None:
            return [True] * images
        numbers = numbers.tolist() if isinstance(numbers, Tensor) else list(numbers)
        if sum(numbers) != images:
            raise ValueError(
                f"batch_num_images={numbers} adds up to {sum(numbers)} but image_sizes has {images} rows: pass on what "
                "the processor returns"
            )
        return [number == 1 for number in numbers for _ in range(number)]

    def clips(self, arguments: Mapping[str, Any], pruners: Sequence[Pruner]) -> list[Segment] | None:
        native, keep = self.tokens_after(pruners, modality="video")
        newline, pooled = self.chosen["newline"], self.pooled if keep == native else 0
        # Pruned frames have no rows: "grid" then is one newline a frame.
        frame = keep + {"grid": pooled or 1, "frame": 1}.get(newline, 0)
        end = int(newline == "one")
        pixels = arguments.get("pixel_values_videos")
        if pixels is not None:
            numbers = [int(pixels.shape[1])] * int(pixels.shape[0])
        elif (features := (arguments.get("mm_encoder_outputs") or {}).get("video")) is not None:
            numbers = [(len(one) - end) // frame for one in features.pooler_output]
        else:
            return None
        cells = math.ceil(self.side / 2)
        for n in numbers:
            if n * frame + end > n * cells**2 + 1:
                raise ValueError(
                    f"pool={self.chosen['pool']!r} with newline={newline!r} makes {n * frame + end} tokens of {n} "
                    f"frames, more than the {n * cells**2 + 1} placeholders of the processor: choose pool='average', "
                    "another newline or a smaller keep"
                )
        key = Clip(self.side, cells, pooled, newline)
        return [Segment(Count(n * cells**2 + 1, n * frame + end), n, key) for n in numbers]

    def offsets(self, segment: Segment, survivors: Sequence[Tensor]) -> Tensor:
        if isinstance(segment.key, Clip):
            return segment.key.offsets(survivors, segment.count.full)
        return super().offsets(segment, survivors)

    def install(self, state: TowerState, stack: ExitStack) -> None:
        super().install(state, stack)
        original = self.base.apply_pooling

        @functools.wraps(original)
        def apply_pooling(image_features: Tensor) -> Tensor:
            if not state.active:
                return original(image_features)
            if state.run.pruned:
                return self._with_newlines(image_features, 1)
            if self.chosen["pool"] == "hf":
                return self._with_newlines(original(image_features), self.pooled)
            grid = image_features.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
            averages = nn.functional.avg_pool2d(grid, kernel_size=2)
            return self._with_newlines(averages.flatten(2).transpose(1, 2), self.pooled)

        set_attribute(self.base, "apply_pooling", apply_pooling, stack)
        if self.chosen["newline"] != "one":
            set_attribute(self.base, "image_newline", NoNewline(self), stack)

    def _with_newlines(self, frames: Tensor, rows: int) -> Tensor:
        """Return frames (F, T, D) of `rows` rows each with a newline behind each row, each frame, or as they are."""
        if self.chosen["newline"] in ("one", "none"):
            return frames
        parts = frames.unflatten(1, (rows if self.chosen["newline"] == "grid" else 1, -1))
        ends = self.newline.to(frames).expand(*parts.shape[:2], 1, -1)
        return torch.cat((parts, ends), dim=2).flatten(1, 2)


class NoNewline:
    """Stands in for `image_newline` where a video must not end with the one that transformers appends: it is empty."""

    def __init__(self, family: LlavaOnevision):
        self.family = family

    def __getitem__(self, index: Any) -> Tensor:
        """Return (1, 0, D) for ``[None, None, :]``."""
        newline = self.family.newline
        return newline.detach().expand(1, 0, len(newline))
