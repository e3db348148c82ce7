"""Training batches of clips: frames, the labels of what they show, and prompts of many questions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..batches import assemble
from ..pixels import Split
from . import questions
from .clips import FRAMES, Clip, clip
from .labels import dense_labels, seen_labels, token_labels
from .prompts import ClipPrompts

LENGTHS = (6, 7, 8, 8, 8, 9, 10)  # frames of a training clip


@dataclass(frozen=True)
class VideoBatch:
    """What one training step reads.

    Attributes
    ----------
    pixels
        float32 (N, 3, 80, 80) in [-1, 1], the frames of all rows in order.
    traced
        bool (N,): frames through which the tower learns; the others are read without a gradient.
    parts
        (first frame, last + 1, pooled) of every run of visual tokens, in the order of the placeholders.
    dense
        Labels a patch, each (N, 100) int64, -100 where unknown: colour (7 stands for background), digit; place float32
        (N, 100, 3): centre x, centre y and side of the digit in [0, 1], NaN off ink.
    seen
        Labels a visual token, (T,) int64 or -100: way (left, right, nowhere so far), rank (which came first, second,
        third) and side (has it crossed the middle); place float32 (T, 4), NaN where unknown: centre x and y, x where
        the digit came into sight, and how far it has moved to the right since; whose, the digit's value.
    asked
        int64 (Q, 3): row, place of the answer's first label, and value of the digit that answers, for questions that
        one digit answers.
    ids, positions, labels, mask
        As in `evoprune.tiny.batches.Batch`.
    """

    pixels: Tensor
    traced: Tensor
    parts: tuple[tuple[int, int, bool], ...]
    dense: dict[str, Tensor]
    seen: dict[str, Tensor]
    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor
    asked: Tensor


@dataclass(frozen=True)
class WatchedBatch:
    """Clips that the tower has read.

    Attributes
    ----------
    embeds
        float32 (B, 201, 96), as the language model reads them.
    seen
        As in `VideoBatch`, of all B x 201 tokens.
    """

    embeds: Tensor
    seen: dict[str, Tensor]


def frame_tensor(clips: list[Clip]) -> Tensor:
    """Frames as the processor would hand them to the model: float32 (N, 3, 80, 80) in [-1, 1]."""
    return torch.from_numpy(np.concatenate([c.frames for c in clips])).permute(0, 3, 1, 2).float() / 127.5 - 1


def _still_pictures(c: Clip, rng: np.random.Generator) -> Clip:
    """Two or three frames of a clip, in order, with a digit on one of them at least."""
    while True:
        numbers = np.sort(rng.permutation(len(c.frames))[: int(rng.integers(2, 4))])
        picked = c.pick([int(number) for number in numbers])
        if picked.movers:
            return picked


def _asked(rows: list[tuple[list[int], list[tuple[list[int], list[int]]], list[int | None]]]) -> Tensor:
    """Where questions that one digit answers wait for their answer, and that digit; see `VideoBatch`."""
    found = []
    for row, (opening, blocks, about) in enumerate(rows):
        end = len(opening)
        for (question, answer), digit in zip(blocks, about, strict=True):
            if digit is not None:
                found.append((row, end + len(question) - 1, digit))
            end += len(question) + len(answer)
    return torch.tensor(found, dtype=torch.long).view(-1, 3)


def dense_batch(split: Split, seed: int, first: int, size: int) -> VideoBatch:
    """Three frames of each of the clips `first` to `first + size - 1` of stream `seed`, without prompts."""
    rng = np.random.default_rng([seed, first, 8])
    clips = []
    for i in range(size):
        c = clip(split, seed, first + i)
        clips.append(c.pick([int(n) for n in rng.permutation(len(c.frames))[:3]]))
    none = torch.zeros(0)
    frames = frame_tensor(clips)
    traced = torch.ones(len(frames), dtype=torch.bool)
    return VideoBatch(frames, traced, (), dense_labels(clips), {}, none, none, none, none, none)


def batch(
    prompts: ClipPrompts,
    split: Split,
    seed: int,
    first: int,
    size: int,
    *,
    each: int = 16,
    level: int = 2,
    difficulty: float = 1.0,
    fixed: bool = False,
) -> VideoBatch:
    """The clips `first` to `first + size - 1` of stream `seed`, one a prompt, all with one number of frames.

    Every fifth prompt shows two or three frames as pictures. `fixed` asks about clips of eight frames and about what
    is measured alone, as the benchmark does.
    """
    rng = np.random.default_rng([seed, first, 7])
    frames = FRAMES if fixed else int(rng.choice(LENGTHS))
    clips, pooled = [], []
    for i in range(size):
        c = clip(split, seed, first + i, frames=frames, difficulty=difficulty)
        pooled.append(fixed or rng.random() >= 0.2)
        clips.append(c if pooled[-1] else _still_pictures(c, rng))
    if fixed:
        rows = []
        for c in clips:
            asked = questions.one_of_each(c, rng)
            blocks = [(prompts.encode(f"{q.text} ASSISTANT:"), prompts.answer(q.answer)) for q in asked]
            rows.append((prompts.opening(frames, True, rng, "", True), blocks, [q.about for q in asked]))
    else:
        rows = [prompts.about(c, p, rng, each, level) for c, p in zip(clips, pooled, strict=True)]
    ends = np.cumsum([0, *(len(c.frames) for c in clips)])
    traced = torch.zeros(int(ends[-1]), dtype=torch.bool)
    parts: list[tuple[int, int, bool]] = []
    for (start, end), whole in zip(pairwise(ends.tolist()), pooled, strict=True):
        traced[start + rng.permutation(end - start)[:2]] = True
        parts += [(start, end, True)] if whole else [(number, number + 1, False) for number in range(start, end)]
    tokens = np.concatenate([token_labels(c, p) for c, p in zip(clips, pooled, strict=True)])
    return VideoBatch(
        frame_tensor(clips),
        traced,
        tuple(parts),
        dense_labels(clips),
        seen_labels(tokens),
        *assemble([(opening, blocks) for opening, blocks, _ in rows], prompts.words.pad_token_id),
        _asked(rows),
    )
