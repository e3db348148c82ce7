"""LLaVA-1.5 in vLLM."""

from __future__ import annotations

from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...models.base import Family
from .family import NativeLlava
from .front import PrunedInfo, PrunedProcessor
from .worker import Pruned

# Names of a tower's weights as transformers 5 saves them, and as the hub and vLLM have them.
SAVED = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{part}": f"vision_tower.vision_model.{part}"
        for part in ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.", "head.")
    }
)


class Info(PrunedInfo, LlavaProcessingInfo):
    """Counts of LLaVA-1.5."""


class Processor(PrunedProcessor, LlavaMultiModalProcessor):
    """Placeholders of LLaVA-1.5."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaDummyInputsBuilder)
class EvoPruneLlavaForConditionalGeneration(Pruned, LlavaForConditionalGeneration):
    """`LlavaForConditionalGeneration`, pruned."""

    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | SAVED

    def family(self) -> Family:
        return NativeLlava(self)
