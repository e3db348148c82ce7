"""The Transformers backend of vLLM: the model is one of transformers, so that its families serve as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.model_executor.models.transformers.causal import CausalMixin
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalMixin,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...models import find
from ...models.base import Family
from .front import PrunedInfo, PrunedProcessor
from .worker import Pruned


class Info(PrunedInfo, MultiModalProcessingInfo):
    """Counts, where this backend asks for them."""

    def _get_num_image_tokens(self, size: Any) -> int:
        return self.counts().image(size.height, size.width).count.short

    def _get_num_video_tokens(self, num_frames: int, size: Any) -> int:
        return self.counts().video(num_frames).count.short


class Processor(PrunedProcessor, MultiModalProcessor):
    """Placeholders, instead of those that the processor of transformers has written."""

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        for modality, items in out_mm_kwargs.items():
            for item in items:
                item.pop(f"{modality}_replacement_ids", None)  # neither cached nor sent to the model
        return super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=MultiModalDummyInputsBuilder)
class TransformersMultiModalForCausalLM(Pruned, MultiModalMixin, CausalMixin):
    """vLLM's class of this name, pruned: vLLM tells this backend by the name of the class."""

    def family(self) -> Family:
        return find(self.model)
