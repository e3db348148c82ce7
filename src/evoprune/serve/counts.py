"""How many placeholders pictures and videos get, from a checkpoint's config alone: what a server's front end asks."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..models import find
from ..models.base import Family, Modality, Segment
from ..models.llava import Llava
from ..models.llava_next import LlavaNext
from ..models.llava_onevision import LlavaOnevision
from ..models.plan import Plan
from .options import Options

SEEN = 4096  # sizes that are remembered
SERVED: tuple[type[Family], ...] = (Llava, LlavaNext, LlavaOnevision)


def check_family(config: Any) -> None:
    """Raise ValueError for a checkpoint of a family that cannot be served with pruning."""
    kind = getattr(config, "model_type", None)
    tower = getattr(getattr(config, "vision_config", None), "model_type", "")
    if any(kind in family.model_types for family in SERVED) and tower != "pixtral":
        return
    served = ", ".join(f"{family.name} (model_type {family.model_types[0]})" for family in SERVED)
    raise ValueError(
        f"a checkpoint of model_type {kind!r}{f' with a {tower} tower' * (tower == 'pixtral')} cannot be served with "
        f"pruning, which there is for {served}: serve one of these, leave the EvoPrune architecture out to serve it "
        "unpruned, or prune it in transformers with evoprune.apply"
    )


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
        check_family(config)
        self.family = find(Skeleton(config))
        self._use(options)

    def at(self, keep: int | float | None) -> Counts:
        """Return the counts of another budget (`Options.at`); ValueError where the model cannot give it."""
        other = copy.copy(self)
        other._use(self.options.at(keep))
        return other

    def _use(self, options: Options) -> None:
        self.options, self.plan = options, Plan(self.family, options.pruners)
        self._cached = lru_cache(maxsize=SEEN)(self._segment)

    @property
    def pruned(self) -> bool:
        """Whether pictures lose anything."""
        return self.family.grid is None or self.plan.budget(self.family.grid).pruned

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
