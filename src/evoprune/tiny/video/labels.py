"""What patches show and what visual tokens are to know: the dense labels of a clip."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..batches import IGNORED
from ..scenes import COLOUR_NAMES
from .clips import GRID, MOST_MOVERS, SIDE, Clip

PATCHES = GRID * GRID
CELLS = (GRID + 1) // 2  # pooled tokens a side
_SEEN_SO_FAR = 6  # px that a digit has to have moved before its tokens are asked which way


def dense_labels(clips: list[Clip]) -> dict[str, Tensor]:
    """Labels of every patch; see `VideoBatch`."""
    found = []
    for c in clips:
        table = np.full((len(c.frames), MOST_MOVERS + 1, 5), np.nan, dtype=np.float32)
        table[:, -1, :2] = IGNORED, len(COLOUR_NAMES)
        for number, m in enumerate(c.movers):
            for frame in m.seen:
                x, y = m.centre(frame)
                table[frame, number] = m.digit, m.colour, x / SIDE, y / SIDE, m.side / 30
        owners = c.owner.reshape(len(c.frames), PATCHES)
        found.append(np.take_along_axis(table, owners[..., None] % (MOST_MOVERS + 1), 1))
    patches = torch.from_numpy(np.concatenate(found))
    return {"digit": patches[..., 0].long(), "colour": patches[..., 1].long(), "place": patches[..., 2:]}


def _pooled_owners(owner: np.ndarray) -> np.ndarray:
    """Owner of every pooled token (F, 25): the digit that most of its four patches show, -1 if none does."""
    cells = owner.reshape(len(owner), CELLS, 2, CELLS, 2).transpose(0, 1, 3, 2, 4).reshape(len(owner), CELLS**2, 4)
    votes = np.stack([(cells == number).sum(-1) for number in range(MOST_MOVERS)], -1)
    return np.where(votes.max(-1) > 0, votes.argmax(-1), -1)


def _token_table(c: Clip) -> np.ndarray:
    """Way, rank, crossed, place, value (F, movers + 1, 8) of every digit in every frame; the last row is background."""
    table = np.full((len(c.frames), MOST_MOVERS + 1, 8), np.nan, dtype=np.float32)
    table[..., [0, 1, 2, 7]] = IGNORED
    starts = [m.seen[0] for m in c.movers]
    for number, m in enumerate(c.movers):
        for frame in m.seen:
            x, y = m.centre(frame)
            begun = m.centre(m.seen[0])[0]
            table[frame, number, 3:] = x / SIDE, y / SIDE, begun / SIDE, (x - begun) / SIDE, m.digit
            if len(set(starts)) == len(starts):
                table[frame, number, 1] = sum(start < starts[number] for start in starts)
            if frame > m.seen[0] and (m.still or abs(x - begun) >= _SEEN_SO_FAR):
                table[frame, number, 0] = 2 if m.still else int(x > begun)
            if frame > m.seen[0]:
                table[frame, number, 2] = (x > SIDE / 2) != (begun > SIDE / 2)
    return table


def token_labels(c: Clip, pooled: bool) -> np.ndarray:
    """Labels (tokens, 8) of a clip's visual tokens: pooled with one newline at the end, or whole with one a frame."""
    owner = _pooled_owners(c.owner) if pooled else c.owner.reshape(len(c.owner), PATCHES)
    rows = np.take_along_axis(_token_table(c), owner[..., None] % (MOST_MOVERS + 1), 1)
    newline = np.array([IGNORED] * 3 + [np.nan] * 4 + [IGNORED], dtype=np.float32)
    if pooled:
        return np.concatenate([rows.reshape(-1, 8), newline[None]])
    return np.concatenate([rows, np.broadcast_to(newline, (len(rows), 1, 8))], 1).reshape(-1, 8)


def seen_labels(tokens: np.ndarray) -> dict[str, Tensor]:
    """The labels of `token_labels` by name; see `VideoBatch.seen`."""
    rows = torch.from_numpy(tokens)
    words = {name: rows[:, i].long() for i, name in enumerate(("way", "rank", "side"))}
    return {**words, "place": rows[:, 3:7], "whose": rows[:, 7].long()}
