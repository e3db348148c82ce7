"""Where the tokens of a video of LLaVA-OneVision stand among its native placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .anyres import frame_cells


@dataclass(frozen=True)
class Clip:
    """How a video of LLaVA-OneVision is laid out: patches, native and pooled cells a side of a frame, and newlines."""

    side: int
    cells: int
    pooled: int  # 0 where frames are pruned
    newline: str

    def offsets(self, survivors: Sequence[Tensor], full: int) -> Tensor:
        """Return for each token of the video the native placeholder, of `full`, that it stands for, int64 (K,).

        `survivors` are each frame's raster indices of patches, int64 (K,).
        """
        frames = [i * self.cells**2 + self._frame(patches) for i, patches in enumerate(survivors)]
        last = frames[0].new_full((1,), full - 1)
        if self.newline == "one":
            return torch.cat((*frames, last))
        return torch.cat(frames) if self.newline == "none" else torch.cat((torch.cat(frames)[:-1], last))

    def _frame(self, patches: Tensor) -> Tensor:
        """Return the native cells that one frame's tokens stand for; a newline stands where its row or frame ends."""
        if self.pooled == self.cells:
            places = torch.arange(self.cells**2, device=patches.device)
        elif self.pooled:  # an averaged cell: where its middle lies
            middles = 2 * torch.arange(self.pooled, device=patches.device) + 1
            places = frame_cells((middles[:, None] * self.side + middles).flatten(), self.side, self.cells)
        else:
            places = frame_cells(patches, self.side, self.cells)
        if self.newline == "grid" and self.pooled:
            rows = places.view(self.pooled, self.pooled)
            return torch.cat((rows, rows[:, :1] // self.cells * self.cells + self.cells - 1), dim=1).flatten()
        if self.newline in ("grid", "frame"):
            return torch.cat((places, places.new_full((1,), self.cells**2 - 1)))
        return places
