"""Parts of a packed tower call: a few items (pictures, frames) at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

# What a caller may have computed for the whole call beforehand: it does not fit a part of it.
PRECOMPUTED = (
    "cu_seqlens", "max_seqlen", "position_ids", "window_index", "cu_window_seqlens", "max_window_seqlen",
    "interp_indices", "interp_weights", "bilinear_indices", "bilinear_weights",
)  # fmt: skip


def packed_parts(arguments: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Yield a call with `hidden_states` (P, ...) and `grid_thw` (I, 3) in parts of at most `size` frames."""
    rest = {name: value for name, value in arguments.items() if name not in PRECOMPUTED}
    grids, first = arguments["grid_thw"], 0
    for part in cut(grids.tolist(), size):
        length = sum(frames * rows * columns for frames, rows, columns in part)
        hidden = arguments["hidden_states"][first : first + length]
        yield {**rest, "hidden_states": hidden, "grid_thw": torch.tensor(part, device=grids.device)}
        first += length


def cut(grids: Sequence[Sequence[int]], size: int) -> list[list[list[int]]]:
    """Return grids (frames, rows, columns) in parts of at most `size` frames; videos are cut between frames."""
    parts: list[list[list[int]]] = [[]]
    left = size
    for frames, rows, columns in grids:
        while frames:
            if not left:
                parts.append([])
                left = size
            taken = min(frames, left)
            parts[-1].append([taken, rows, columns])
            frames, left = frames - taken, left - taken
    return parts
