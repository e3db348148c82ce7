"""Where the prompt in progress stands in one call of the language model: padding, and its new visual tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from .decoder_layout import Span
from .facts import Facts


def known_columns(facts: Facts | None, batch: int, total: int) -> Tensor:
    """Return bool (B, total) on the CPU: which columns, cached and new, are no padding of the caller's.

    Of `batch` rows, which may be several (beams) for each row of the prompt. What was generated is no padding.
    """
    real = torch.ones(batch, total, dtype=torch.bool)
    if facts is not None:
        known = facts.whole.repeat_interleave(_repeat(facts, batch), 0)[:, :total]
        real[:, : known.shape[1]] = known
    return real


def spans_of(facts: Facts | None, batch: int, past: int, width: int, method: str) -> list[tuple[Span, int]]:
    """Return where the visual tokens of a call stand, and how many tower items each block comes from, in order.

    Parameters
    ----------
    past, width
        Columns in the cache, and columns of the call.

    Raises
    ------
    ValueError
        A block is not whole in this call, so that `method` cannot choose among its tokens.
    """
    spans = []
    for block in facts.blocks if facts is not None else ():
        start = facts.past + block.start - past  # type: ignore[union-attr]
        if start + block.tokens <= 0:
            continue
        if start < 0 or start + block.tokens > width:
            raise ValueError(
                f"the {block.tokens} visual tokens of one {block.modality} come in two parts, and {method} has to see "
                "them together: leave prefill_chunk_size out"
            )
        repeat = _repeat(facts, batch)  # type: ignore[arg-type]
        rows = range(block.row * repeat, (block.row + 1) * repeat)
        spans += [(Span(row, start, block.tokens), block.items) for row in rows]
    return sorted(spans)


def _repeat(facts: Facts, batch: int) -> int:
    """Return how many rows of a call belong to each row of the prompt."""
    return max(1, batch // facts.real.shape[0])
