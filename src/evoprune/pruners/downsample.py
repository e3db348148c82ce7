"""Down-sampling: show the encoder a smaller picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .base import InputPruner


@dataclass(frozen=True)
class Downsample(InputPruner):
    """Resizes the picture to g patches a side, g = floor(sqrt(keep)), position embeddings interpolated.

    The true count is g * g, at most `keep`.
    """

    name: ClassVar[str] = "downsample"
    source: ClassVar[str] = "sanity baseline"
    summary: ClassVar[str] = "resizes the picture before the encoder"

    def grid(self, n: int) -> int:
        return math.isqrt(self.count(n))
