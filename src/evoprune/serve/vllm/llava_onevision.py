"""LLaVA-OneVision in vLLM: pictures in tiles, videos in pooled frames."""

from __future__ import annotations

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


class Processor(PrunedProcessor, LlavaOnevisionMultiModalProcessor):
    """Placeholders of LLaVA-OneVision."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaOnevisionDummyInputsBuilder)
class EvoPruneLlavaOnevisionForConditionalGeneration(Tiles, LlavaOnevisionForConditionalGeneration):
    """`LlavaOnevisionForConditionalGeneration`, pruned; pruned frames are not pooled."""

    hf_to_vllm_mapper = LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | SAVED

    def family(self) -> Family:
        return NativeLlavaOnevision(self)

    def apply_pooling(self, image_features: Tensor, stride: int = 2) -> Tensor:
        return image_features if self.state.run.pruned else super().apply_pooling(image_features, stride)  # type: ignore
