"""What the prompt in progress looks like as it runs: where its visual tokens and its text stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    earlier
        bool (B, P) on the CPU, the same of what the cache holds before the first of these columns, None for nothing.
    """

    blocks: Sequence[Block]
    ids: Tensor | None
    real: Tensor
    earlier: Tensor | None = None

    @property
    def past(self) -> int:
        """Columns in the cache before the first of these."""
        return 0 if self.earlier is None else self.earlier.shape[1]

    @property
    def whole(self) -> Tensor:
        """bool (B, P + S): `real`, and what is in the cache before it."""
        return self.real if self.earlier is None else torch.cat((self.earlier, self.real), dim=1)

    @property
    def text(self) -> Tensor:
        """bool (B, S): neither padding nor the visual tokens of a block."""
        text = self.real.clone()
        for block in self.blocks:
            text[block.row, block.start : block.start + block.tokens] = False
        return text


def facts_of(arguments: Mapping[str, Any], blocks: Sequence[Block], past: int) -> Facts | None:
    """Return the facts of a call's arguments as they run; None where it has neither ids nor embeddings.

    `past` are the columns in the cache before the first of its own, 0 where the whole conversation is given.
    """
    given = arguments.get("input_ids")
    rows = given if given is not None else arguments.get("inputs_embeds")
    if not isinstance(rows, Tensor) or rows.ndim < 2:
        return None
    batch, width = rows.shape[:2]
    real = torch.ones(batch, past + width, dtype=torch.bool)
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        seen = mask[:, -(past + width) :].cpu().bool()
        real[:, real.shape[1] - seen.shape[1] :] = seen
    ordered = sorted(blocks, key=lambda block: (block.row, block.start))
    return Facts(tuple(ordered), given, real[:, past:], real[:, :past] if past else None)
