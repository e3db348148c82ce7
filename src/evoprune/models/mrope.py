"""M-RoPE: survivors keep the three-axis positions that upstream's own rule gives them in the full prompt.

The full prompt is laid out again from the short one: text, and the full run of every picture. What upstream's
`get_rope_index` says of it is gathered at the columns that the survivors came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import MODALITIES
from .prompt import Layout, Slot

TYPES = {"image": 1, "video": 2}  # of `mm_token_type_ids`


def rope_table(model: Any, layout: Layout, columns: Tensor, generating: bool) -> tuple[Tensor, Tensor]:
    """Return the positions of a short prompt's columns, int64 (3, B, S), and of the first token behind it, (3, B).

    Parameters
    ----------
    model
        Has `get_rope_index`; the `key` of each segment is (frames, rows, columns) of patches, or those and the seconds
        that a frame takes.
    columns
        int64 (B, S), of the prompt with all placeholders.
    generating
        `generate` counts on from the prompt's last column, the model's own forward from its highest position.

    Raises
    ------
    ValueError
        Two pictures without a token in between.
    """
    device = columns.device
    given = layout.position_ids
    if given is not None:
        return _given(given.to(device), layout, columns)
    types, mask = full_prompt(layout)
    grids = {modality: _grids(layout.slots, modality) for modality in MODALITIES}
    seconds = [slot.segment.key[3] for slot in layout.slots if len(slot.segment.key) > 3 and slot.modality == "video"]
    extra = {"second_per_grid_ts": seconds} if seconds and None not in seconds else {}
    full, _ = model.get_rope_index(
        torch.zeros_like(types), mm_token_type_ids=types, image_grid_thw=grids["image"],
        video_grid_thw=grids["video"], attention_mask=mask, **extra,
    )  # fmt: skip
    last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
    if generating:
        after = full.gather(2, last[None, :, None].expand(3, -1, 1))[..., 0] + 1
    else:
        after = full.masked_fill(mask[None] == 0, 0).amax(dim=(0, 2)).expand(3, -1) + 1
    full = full.to(device)
    index = columns.clamp(max=full.shape[2] - 1).expand(3, -1, -1)
    return full.gather(2, index), after.to(device)


def full_prompt(layout: Layout) -> tuple[Tensor, Tensor]:
    """Return token types and mask, int64 (B, W), of the prompt with all placeholders."""
    real = layout.columns >= 0
    begins = layout.original.gather(1, layout.first[:, None])[:, 0].tolist()
    ends = layout.original.masked_fill(~real, -1).amax(dim=1).tolist()
    for slot in layout.slots:
        ends[slot.row] = max(ends[slot.row], slot.long + slot.segment.count.full - 1)
    width = max(ends) + 1
    types = torch.zeros(len(ends), width, dtype=torch.long)
    mask = torch.zeros_like(types)
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        mask[row, begin : end + 1] = 1
        hidden = real[row] & (layout.mask[row] == 0)  # masked by the user inside the row
        mask[row, layout.original[row, hidden]] = 0
    for slot in layout.slots:
        run = types[slot.row, slot.long : slot.long + slot.segment.count.full]
        if slot.long and types[slot.row, slot.long - 1] == TYPES[slot.modality]:
            raise ValueError(
                f"two {slot.modality}s stand side by side in row {slot.row} of the prompt, and M-RoPE cannot tell them "
                "apart: put a token between them, as the model's own chat template does"
            )
        run[:] = TYPES[slot.modality]
    return types, mask


def _grids(slots: Sequence[Slot], modality: str) -> Tensor | None:
    rows = [slot.segment.key[:3] for slot in slots if slot.modality == modality]
    return torch.tensor(rows) if rows else None


def _given(given: Tensor, layout: Layout, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Positions that the user brought along: one, three or (text first) four axes."""
    axes = given[None] if given.ndim == 2 else given[-3:]
    axes = axes.expand(3, columns.shape[0], -1)
    if int(columns.max()) >= axes.shape[2]:  # of a prompt that was short already
        columns = layout.columns.clamp(min=0).to(given.device)
    return axes.gather(2, columns.expand(3, -1, -1)), axes[..., -1] + 1
