"""Random dropping: the floor that a selection has to beat."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class Random(FeaturePruner):
    """Keeps the same random places of every image with N tokens, so that a batch equals its images one by
    one.

    Attributes
    ----------
    seed
        Chooses the places, 0 to 2^31 - 1; nothing else does: not the picture, its place in the batch, or the
        device.
    """

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "sanity baseline"
    summary: ClassVar[str] = "keeps random features after the encoder"

    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("seed", 0, 2**31 - 1, whole=True)

    def select(self, view: FeatureView, keep: int) -> Tensor:
        batch, length = view.features.shape[:2]
        index = torch.arange(length, device=view.features.device)
        seed = torch.full_like(index, self.seed)
        # A hash instead of a generator: the same on every device, nothing to copy, nothing to seed. It
        # permutes the 32-bit integers, so that places never tie.
        order = torch.argsort(_mix(_mix(seed + 0x3C6EF372) ^ index))
        return torch.sort(order[:keep]).values.expand(batch, keep)


def _mix(value: Tensor) -> Tensor:
    # Multipliers below 2^31 keep the products of 32-bit values inside int64.
    for factor in (0x7FEB352D, 0x45D9F3B5):
        value = ((value ^ (value >> 16)) * factor) & 0xFFFFFFFF
    return value ^ (value >> 16)
