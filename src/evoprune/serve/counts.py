"""How many placeholders pictures and videos get, from a checkpoint's config alone: what a server's front end asks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..models import find
from ..models.base import Modality, Segment
from ..models.plan import Plan
from .options import Options

SEEN = 4096  # sizes that are remembered


class Counts:
    """Counts of one checkpoint under one set of options.

    Parameters
    ----------
    config
        The checkpoint's config, of a family that can be served.
    options
        The pruners.

    Raises
    ------
    ValueError
        The model's family, or a count that it cannot give.
    """

    def __init__(self, config: Any, options: Options):
        self.options = options
        self.family = find(Skeleton(config))
        self.plan = Plan(self.family, options.pruners)
        self._cached = lru_cache(maxsize=SEEN)(self._segment)

    def image(self, height: int, width: int) -> Segment:
        """Return the segment of a picture of so many pixels; ValueError where its tokens cannot be given."""
        return self._cached("image", height, width)

    def video(self, frames: int) -> Segment:
        """Return the segment of a video of so many frames."""
        return self._cached("video", frames, 0)

    def _segment(self, modality: Modality, first: int, second: int) -> Segment:
        if modality == "image":
            pixels = torch.empty(1, 0, device="meta")
            arguments: dict[str, Any] = {"pixel_values": pixels, "image_sizes": [[first, second]]}
        else:
            arguments = {"pixel_values_videos": torch.empty(1, first, 0, device="meta")}
        (segment,) = self.family.segments(arguments, modality, self.options.pruners) or []
        return segment


class Skeleton(nn.Module):
    """What a family reads counts from: the config, and a tower without weights."""

    def __init__(self, config: Any):
        from transformers import AutoModel

        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = nn.Identity()
