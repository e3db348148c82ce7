"""LLaVA-NeXT: an image is a base tile and up to a few more, whose patches are joined, unpadded and broken into rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import Pruner
from .anyres import Tiling, arange, tiling
from .base import Count, Modality, Segment, UnsupportedModel
from .llava import Llava
from .state import TowerState
from .undo import set_attribute


@dataclass(frozen=True)
class Placed:
    """What `LlavaNext.offsets` needs of an image: its native layout, and whether its tiles are pruned."""

    tiling: Tiling
    pruned: bool


class LlavaNext(Llava):
    """`LlavaNextForConditionalGeneration`: every tile keeps as many tokens, and one newline ends a pruned image."""

    name = "LLaVA-NeXT"
    model_types = ("llava_next",)
    examples = ("llava-hf/llava-v1.6-mistral-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf")
    towers = "CLIP ViT-L/14-336"
    uniform = False

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        if self.kept_prefix:
            raise UnsupportedModel(
                f"vision_feature_select_strategy={self._strategy!r} keeps CLS, which has no place in a row of "
                f"{self.name}: set it to 'default'"
            )

    @property
    def limit(self) -> int | None:
        """Tiles' worth of tokens beyond which an image is natively shrunk."""
        return None

    @property
    def newline(self) -> Tensor:
        """The model's `image_newline` (D,), whatever stands in for it while pruners are applied."""
        return self.base._parameters["image_newline"]

    def segments(
        self, arguments: Mapping[str, Any], modality: Modality, pruners: Sequence[Pruner]
    ) -> list[Segment] | None:
        if modality == "video":
            return self.clips(arguments, pruners)
        features = (arguments.get("mm_encoder_outputs") or {}).get("image")
        sizes = arguments.get("image_sizes")
        if sizes is None:
            if arguments.get("pixel_values") is not None:
                raise ValueError(
                    f"pixel_values of {self.name} came without image_sizes, which say how many tiles are real: pass on "
                    "all that the processor returns"
                )
            return None
        if features is None and arguments.get("pixel_values") is None:
            return None
        rows = sizes.tolist() if isinstance(sizes, Tensor) else sizes
        return [
            self._image(self.tile((int(height), int(width)), cut), (int(height), int(width)), pruners)
            for (height, width), cut in zip(rows, self.cut(arguments, len(rows)), strict=True)
        ]

    def clips(self, arguments: Mapping[str, Any], pruners: Sequence[Pruner]) -> list[Segment] | None:
        """Return the segments of the videos, None if there are none."""
        return None

    def cut(self, arguments: Mapping[str, Any], images: int) -> list[bool]:
        """Return for each image whether it is cut into tiles."""
        return [True] * images

    def tile(self, size: tuple[int, int], cut: bool) -> Tiling:
        """Return the tiles of an image of (height, width) pixels."""
        config = self.base.config
        pixels = int(config.vision_config.image_size)
        return tiling(size, config.image_grid_pinpoints, pixels, self.side, self.limit) if cut else Tiling(self.side)

    def _image(self, tiles: Tiling, size: tuple[int, int], pruners: Sequence[Pruner]) -> Segment:
        native, keep = self.tokens_after(pruners)
        if keep == native:
            return Segment(Count(tiles.full, tiles.full), tiles.items, Placed(tiles, False))
        short = tiles.items * keep + 1
        if short > tiles.full:
            raise ValueError(
                f"an image of {size[0]} x {size[1]} pixels has {tiles.full} tokens in {self.name}, and its "
                f"{tiles.items} tiles of {keep} would be {short}: choose keep <= {(tiles.full - 1) // tiles.items}, or "
                "give it less padding"
            )
        return Segment(Count(tiles.full, short), tiles.items, Placed(tiles, True))

    def offsets(self, segment: Segment, survivors: Sequence[Tensor]) -> Tensor:
        key: Placed = segment.key
        if not key.pruned:
            return arange(segment.count.full, survivors)
        places = [key.tiling.places(item, patches) for item, patches in enumerate(survivors)]
        return torch.cat((*places, places[0].new_full((1,), key.tiling.full - 1)))

    def install(self, state: TowerState, stack: ExitStack) -> None:
        original = self.base.pack_image_features

        @functools.wraps(original)
        def pack(image_features: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
            if not state.run.pruned:
                return original(image_features, *args, **{**kwargs, "image_newline": self.newline})
            packed = [torch.cat((tiles.flatten(0, 1), self.newline.to(tiles)[None])) for tiles in image_features]
            return packed, torch.tensor([len(one) for one in packed], device=packed[0].device)

        set_attribute(self.base, "pack_image_features", pack, stack)
