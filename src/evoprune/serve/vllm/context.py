"""What a front end works in, without the server's own budget: transformers knows no such argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.multimodal.processing import InputProcessingContext

from ..options import KEEP


class WithoutBudget(InputProcessingContext):
    """vLLM's context; it would hand the budget in `--mm-processor-kwargs` on to the processor of transformers."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **settings: Any) -> dict[str, Any]:
        merged = super().get_merged_mm_kwargs(kwargs, **settings)
        merged.pop(KEEP, None)
        return merged
