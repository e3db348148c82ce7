"""LLaVA-NeXT in vLLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...models.base import Family
from .family import NativeLlavaNext
from .front import PrunedInfo, PrunedProcessor
from .llava import SAVED
from .worker import Pruned


class Tiles(Pruned):
    """Puts the tokens of an image's pruned tiles behind one another, and one newline behind them."""

    image_newline: Tensor

    def _merge_image_patch_embeddings(self, image_size: Tensor, patch_embeddings: Tensor, **settings: Any) -> Tensor:
        state = self.state
        if not state.run.pruned:
            return super()._merge_image_patch_embeddings(image_size, patch_embeddings, **settings)  # type: ignore[misc]
        height, width = image_size.tolist()  # on the CPU
        family: Any = state.plan.family
        tiles = family.tile((int(height), int(width)), True).items
        real = patch_embeddings[:tiles].flatten(0, 1)  # pictures of one request are padded to as many tiles
        return torch.cat((real, self.image_newline.to(real)[None]))


class Info(PrunedInfo, LlavaNextProcessingInfo):
    """Counts of LLaVA-NeXT."""


class Processor(PrunedProcessor, LlavaNextMultiModalProcessor):
    """Placeholders of LLaVA-NeXT."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaDummyInputsBuilder)
class EvoPruneLlavaNextForConditionalGeneration(Tiles, LlavaNextForConditionalGeneration):
    """`LlavaNextForConditionalGeneration`, pruned."""

    hf_to_vllm_mapper = LlavaNextForConditionalGeneration.hf_to_vllm_mapper | SAVED

    def family(self) -> Family:
        return NativeLlavaNext(self)
