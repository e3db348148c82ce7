"""The front end: placeholders of pruned pictures and videos, budgets of requests, names of cached results.

Everything that a user can get wrong is refused here, where vLLM answers with HTTP 400; an exception in the worker would
end the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import EmbeddingItems, ImageProcessorItems, VideoProcessorItems
from vllm.multimodal.processing import PromptReplacement

from ...models.base import Modality
from ..counts import Counts
from ..options import KEEP, KEY, Options, requested, to_row

MODALITIES: tuple[Modality, ...] = ("image", "video")
BUDGETS = 64  # sets of counts that are remembered


def field(modality: str) -> str:
    """Name of the budgets that travel with the pictures or videos of a request."""
    return f"{KEEP}_{modality}"


class PrunedInfo:
    """What vLLM's processing info answers from shapes; stands before one of vLLM's in the bases of a class."""

    ctx: Any
    get_hf_config: Any

    @cached_property
    def _options(self) -> Options:
        return Options.read(self.ctx.model_config.hf_config)

    @cached_property
    def _counts(self) -> Any:
        config = self.ctx.model_config.hf_config
        return lru_cache(maxsize=BUDGETS)(lambda keep, kind: Counts(config, self._options.at(keep)))

    def counts(self, keep: int | float | None = None) -> Counts:
        """Return the counts of a budget, by default the server's; ValueError where the model cannot give it."""
        return self._counts(keep, type(keep))  # 1 token and a share of 1.0 are equal numbers

    @property
    def model_id(self) -> str:
        """The model's name with the options: it enters the hashes under which features and prefixes are cached."""
        return f"{super().model_id}#{KEY}={self._options.to_json()}"  # type: ignore[misc]

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        return self.counts().image(image_height, image_width).count.short

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        return self.counts().video(num_frames).count.short


class PrunedProcessor:
    """Writes as many placeholders as survive; stands before one of vLLM's processors in the bases of a class."""

    info: Any

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        keep = self._requested(hf_kwargs)
        plain = {name: value for name, value in hf_kwargs.items() if name != KEEP}
        found = super()._apply_hf_processor_main(mm_items, plain)  # type: ignore[misc]
        for modality, number in mm_items.get_all_counts().items():
            if modality in MODALITIES and number:
                found[field(modality)] = torch.tensor([to_row(keep)] * number, dtype=torch.float64)
        return found

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        budgets = {name: hf_inputs.pop(name) for name in map(field, MODALITIES) if name in hf_inputs}
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        hf_inputs.update(budgets)
        for modality in MODALITIES:
            if field(modality) in budgets:
                fields[field(modality)] = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        counts = self.info.counts(self._requested(hf_processor_mm_kwargs))
        tokens = {modality: counts.family.token_id(modality) for modality in MODALITIES}

        def written(modality: Modality) -> PromptReplacement:
            return PromptReplacement(
                modality=modality,
                target=[tokens[modality]],
                replacement=lambda item: [tokens[modality]] * placeholders(mm_items, modality, item, counts),
            )

        return [written(modality) for modality in MODALITIES if tokens[modality] is not None]

    def _requested(self, arguments: Mapping[str, object]) -> int | float | None:
        """Return the budget of a request, or else the one in the server's own `--mm-processor-kwargs`."""
        return requested(self.info.ctx.get_merged_mm_kwargs(arguments))


def placeholders(mm_items: Any, modality: Modality, item: int, counts: Counts) -> int:
    """Return the placeholders of one picture or video; features that a client computed itself keep their number."""
    kinds = (EmbeddingItems, ImageProcessorItems if modality == "image" else VideoProcessorItems)
    items = mm_items.get_items(modality, kinds)
    if isinstance(items, EmbeddingItems):
        return items.get_feature_size(item)
    if modality == "video":
        return counts.video(items.get_num_frames(item)).count.short
    size = items.get_image_size(item)
    return counts.image(size.height, size.width).count.short
