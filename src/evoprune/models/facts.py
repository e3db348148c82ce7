"""What the prompt in progress looks like as it runs: where its visual tokens and its text stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Modality


class Block(NamedTuple):
    """The visual tokens of one segment (image, video, or frame between time stamps) in the prompt that runs.

    Attributes
    ----------
    row, start, tokens
        Where it stands: columns start to start + tokens of a row.
    items
        Items of the tower (tiles, frames) that it takes its tokens from, in the tower's order.
    modality
        Image or video; the tower sees all images of a call before all videos, each in the order of rows and columns.
    new
        Whether its pixels come with this call; False: they are in the cache already.
    """

    row: int
    start: int
    tokens: int
    items: int
    modality: Modality = "image"
    new: bool = True


@dataclass(frozen=True)
class Facts:
    """The prompt that runs, its placeholders dropped already.

    Attributes
    ----------
    blocks
        In the order of rows and columns.
    ids
        int64 (B, S) or None where the caller brought embeddings.
    real
        bool (B, S) on the CPU: no padding.
    """

    blocks: Sequence[Block]
    ids: Tensor | None
    real: Tensor

    @property
    def text(self) -> Tensor:
        """bool (B, S): neither padding nor the visual tokens of a block."""
        text = self.real.clone()
        for block in self.blocks:
            text[block.row, block.start : block.start + block.tokens] = False
        return text

    def item_rows(self, modality: Modality) -> list[int]:
        """Return the row of the prompt that each new item of the tower belongs to, in the tower's order."""
        return [b.row for b in self.blocks if b.modality == modality and b.new for _ in range(b.items)]


def real_columns(width: int, rows: int, mask: Tensor | None) -> Tensor:
    """Return bool (rows, width) on the CPU from a mask (B, >= width), or all True."""
    if mask is None or mask.ndim != 2:
        return torch.ones(rows, width, dtype=torch.bool)
    return mask[:, -width:].cpu().bool()
