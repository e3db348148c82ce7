"""The front end: placeholders of pruned pictures and videos, budgets of requests, names of cached results.

Everything that a user can get wrong is refused here, where vLLM answers with HTTP 400; an exception in the worker would
end the engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import EmbeddingItems, ImageProcessorItems, ImageSize, VideoProcessorItems
from vllm.multimodal.processing import PromptReplacement

from ...models.base import Modality
from ..counts import Counts, check_family
from ..options import KEEP, KEY, Options, check_arguments, requested, to_row
from .context import WithoutBudget

MODALITIES: tuple[Modality, ...] = ("image", "video")
BUDGETS = 64  # sets of counts that are remembered
THREAD = 200  # length of a picture in widths, above which it is refused


def field(modality: str) -> str:
    """Name of what travels with the pictures or videos of a request: for each its budget, and its placeholders."""
    return f"{KEEP}_{modality}"


class PrunedInfo:
    """What vLLM's processing info answers from shapes; stands before one of vLLM's in the bases of a class."""

    ctx: Any
    get_hf_config: Any

    def __init__(self, ctx: Any):
        config = ctx.model_config.hf_config
        check_family(config)
        super().__init__(WithoutBudget(ctx.model_config, ctx.tokenizer))  # type: ignore[call-arg]
        # A budget in the server's own `--mm-processor-kwargs` is the server's.
        self.own_keep = requested(ctx.get_merged_mm_kwargs({}))
        self._options = Options.read(config).at(self.own_keep)

    @cached_property
    def _counts(self) -> Any:
        own = Counts(self.ctx.model_config.hf_config, self._options)
        return lru_cache(maxsize=BUDGETS)(lambda keep, kind: own.at(keep))

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

    def get_image_size_with_most_features(self) -> ImageSize:
        """Return the picture with most tokens of those that are served: vLLM makes room for it.

        Pruned it is one of most tiles, which natively are shrunk and are not the ones with most tokens.
        """
        counts, config = self.counts(), self.ctx.model_config.hf_config
        side = config.vision_config.image_size
        resolutions = getattr(config, "image_grid_pinpoints", None) or [(side, side)]
        sizes = [ImageSize(width=width, height=height) for height, width in resolutions]
        if not counts.pruned:
            sizes.append(super().get_image_size_with_most_features())  # type: ignore[misc]
        most = max(sizes, key=lambda size: _tokens(counts, size))
        counts.image(most.height, most.width)  # says why where no picture can be served
        return most


def _tokens(counts: Counts, size: ImageSize) -> int:
    try:
        return counts.image(size.height, size.width).count.short
    except ValueError:  # of a picture that is refused
        return 0


class PrunedProcessor:
    """Writes as many placeholders as survive; stands before one of vLLM's processors in the bases of a class."""

    info: Any

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Return the names under which features are cached, with the options in those that a client has given too.

        Without a processor cache vLLM takes a client's name (uuid) for the picture: another picture of that name would
        get the features of the first.
        """
        given = [item for items in inputs.mm_data_items.values() for item in items.get_all_items_for_hash()]
        if inputs.cache is None and all(item is not None for item in given):
            inputs = replace(inputs, mm_uuid_items=None)
        tag = hashlib.sha256(self.info.model_id.encode()).hexdigest()[:16]
        found = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        return {modality: [f"{one}-{tag}" for one in each] for modality, each in found.items()}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        check_arguments(hf_kwargs)
        check_pictures(mm_items)
        keep = self._requested(hf_kwargs)
        counts = self.info.counts(keep)
        numbers = {
            modality: [placeholders(mm_items, modality, item, counts) for item in range(number)]
            for modality, number in mm_items.get_all_counts().items()
            if modality in MODALITIES and number
        }
        plain = {name: value for name, value in hf_kwargs.items() if name != KEEP}
        found = super()._apply_hf_processor_main(mm_items, plain)  # type: ignore[misc]
        for modality, each in numbers.items():
            found[field(modality)] = torch.tensor([[*to_row(keep), one] for one in each], dtype=torch.float64)
        return found

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        budgets = {name: hf_inputs.pop(name) for name in map(field, MODALITIES) if name in hf_inputs}
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        hf_inputs.update(budgets)
        for modality in MODALITIES:
            if field(modality) in budgets:
                fields[field(modality)] = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
                # The Transformers backend forgets features that a client made itself.
                fields.setdefault(f"{modality}_embeds", MultiModalFieldConfig.batched(modality))
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
        keep = requested(arguments)
        return self.info.own_keep if keep is None else keep


def placeholders(mm_items: Any, modality: Modality, item: int, counts: Counts) -> int:
    """Return the placeholders of one picture or video; features that a client computed itself keep their number."""
    kinds = (EmbeddingItems, ImageProcessorItems if modality == "image" else VideoProcessorItems)
    items = mm_items.get_items(modality, kinds)
    if isinstance(items, EmbeddingItems):
        return items.get_feature_size(item)
    if modality == "video":
        if isinstance(items.get(item), tuple):
            raise ValueError(
                "the video processor of this checkpoint draws frames itself, so that they cannot be counted before: "
                "set do_sample_frames to false in its config, and send the frames that you want"
            )
        return counts.video(items.get_num_frames(item)).count.short
    size = items.get_image_size(item)
    return counts.image(size.height, size.width).count.short


def check_pictures(mm_items: Any) -> None:
    """Refuse what is no picture, and pictures like threads.

    Of a name (`image_pil` of a request) transformers would open the file or address. A processor that scales the short
    side to the tower's makes gigabytes of a long one.
    """
    items = mm_items.get("image", ())
    for index in range(0 if isinstance(items, EmbeddingItems) else len(items)):
        picture = items.get(index)
        if not isinstance(picture, Image | np.ndarray | torch.Tensor):
            raise ValueError(
                f"a picture came as {type(picture).__name__}, which is none: send it as image_url with a data URL "
                "in base64"
            )
        size = items.get_image_size(index)
        if max(size) > THREAD * min(size):
            raise ValueError(
                f"a picture of {size.width} x {size.height} pixels is more than {THREAD} times as long as wide: send a "
                "part of it, or pad it"
            )
