"""LLaVA-OneVision in vLLM: pictures in tiles, videos in pooled frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...models.base import Family
from .family import NativeLlavaOnevision
from .front import PrunedInfo, PrunedProcessor
from .llava import SAVED
from .llava_next import Tiles


class Info(PrunedInfo, LlavaOnevisionProcessingInfo):
    """Counts of LLaVA-OneVision."""

    def _get_max_video_frames(self, max_tokens: int) -> int:
        one, two = (
            self.counts().video(frames).count.short for frames in (1, 2)
        )  # vLLM's own counts up, frame by frame
        return max(0, (max_tokens - one) // (two - one) + 1)


class Processor(PrunedProcessor, LlavaOnevisionMultiModalProcessor):
    """Placeholders of LLaVA-OneVision."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaOnevisionDummyInputsBuilder)
class EvoPruneLlavaOnevisionForConditionalGeneration(Tiles, LlavaOnevisionForConditionalGeneration):
    """`LlavaOnevisionForConditionalGeneration`, pruned; pruned frames are not pooled."""

    hf_to_vllm_mapper = LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | SAVED

    def family(self) -> Family:
        return NativeLlavaOnevision(self)

    def _merge_image_patch_embeddings(self, image_size: Tensor, patch_embeddings: Tensor, **settings: Any) -> Tensor:
        limit = self.config.vision_aspect_ratio  # vLLM takes anyres_max_9 for granted
        return super()._merge_image_patch_embeddings(
            image_size, patch_embeddings, vision_aspect_ratio=limit, **settings
        )

    def _process_image_pixels(self, inputs: Any) -> Any:
        pixels = inputs["pixel_values"]
        if isinstance(pixels, Tensor):
            return super()._process_image_pixels(inputs)
        # vLLM projects picture by picture, but the feature stage wants all that has left the tower.
        features = self._image_pixels_to_features(self.vision_tower, torch.cat(pixels))
        return list(self.multi_modal_projector(features).split([len(one) for one in pixels]))

    def apply_pooling(self, image_features: Tensor, stride: int = 2) -> Tensor:
        return image_features if self.state.run.pruned else super().apply_pooling(image_features, stride)  # type: ignore
