"""Where visual tokens stand in the language model's sequence, before and after each drop: counts, known on the CPU."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """The tokens of one block that are left: they stand in a row from `start` on."""

    row: int
    start: int
    tokens: int


@dataclass
class Sequences:
    """Rows of the sequence that runs, padded to one width; its spans are in the order of rows and places.

    Attributes
    ----------
    spans
        One for each block, also those that never lose a token.
    width, pads
        Places a row, and for each row how many at its front are padding of our own.
    real
        bool (B, width): the prompt, without padding, ours or the caller's, and without what was generated.
    """

    spans: list[Span]
    width: int
    pads: list[int]
    real: Tensor

    @property
    def ragged(self) -> bool:
        """Whether any row has padding of our own."""
        return any(self.pads)

    @property
    def text(self) -> Tensor:
        """bool (B, width): neither padding nor visual."""
        text = self.real.clone()
        for row, start, tokens in self.spans:
            text[row, start : start + tokens] = False
        return text

    @property
    def numbers(self) -> list[int]:
        """For each span its number among those of its row."""
        before: Counter[int] = Counter()
        found = []
        for span in self.spans:
            found.append(before[span.row])
            before[span.row] += 1
        return found

    def groups(self, keeps: Sequence[int]) -> list[Group]:
        """Return the blocks that lose tokens, those of the same counts together."""
        found: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (span, keep) in enumerate(zip(self.spans, keeps, strict=True)):
            if keep < span.tokens:
                found[span.tokens, keep].append(i)
        return [Group(tuple(members), tokens, keep) for (tokens, keep), members in found.items()]

    def drop(self, keeps: Sequence[int]) -> Drop:
        """Return how the rows move up when each block keeps so many of its tokens; the shorter rows are padded left.

        Padding at the front of a row goes, so that a row of text alone does not hold up the others.
        """
        fronts = torch.where(self.real.any(dim=1), self.real.int().argmax(dim=1), self.width).tolist()
        lengths = [self.width - front for front in fronts]
        for span, keep in zip(self.spans, keeps, strict=True):
            lengths[span.row] -= span.tokens - keep
        width = max(lengths)
        pads = [width - length for length in lengths]
        index = torch.full((len(pads), width), -1)
        spans: list[Span] = []
        for row, pad in enumerate(pads):
            old, new = fronts[row], pad
            for i, span in enumerate(self.spans):
                if span.row != row:
                    continue
                before = span.start - old
                index[row, new : new + before] = torch.arange(old, span.start)
                spans.append(Span(row, new + before, keeps[i]))
                # Where tokens go, the first ones stand in until it is chosen which.
                index[row, new + before : new + before + keeps[i]] = torch.arange(span.start, span.start + keeps[i])
                old, new = span.start + span.tokens, new + before + keeps[i]
            index[row, new:] = torch.arange(old, self.width)
        real = self.real.gather(1, index.clamp(min=0)) & (index >= 0)
        return Drop(index, Sequences(spans, width, pads, real))

    def behind(self, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the places of the text behind each of the blocks, int64 (G, M), and which of them there are."""
        text = self.text
        places = []
        for i in members:
            row, start, tokens = self.spans[i]
            found = text[row].nonzero().flatten()
            places.append(found[found >= start + tokens])
        width = max(1, *(len(one) for one in places))
        table, there = torch.zeros(len(places), width, dtype=torch.long), torch.zeros(len(places), width).bool()
        for g, one in enumerate(places):
            table[g, : len(one)], there[g, : len(one)] = one, True
        return table, there


class Group(NamedTuple):
    """Blocks (their numbers in `Sequences.spans`) that keep as many of as many tokens."""

    members: tuple[int, ...]
    tokens: int
    keep: int


@dataclass(frozen=True)
class Drop:
    """Where each place of the new rows comes from in the old ones, int64 (B, W), -1 for padding; and the new rows."""

    index: Tensor
    after: Sequences


def starting(spans: Sequence[Span], real: Tensor) -> Sequences:
    """Return the rows as they enter the language model, `real` bool (B, W)."""
    return Sequences(sorted(spans), real.shape[1], [0] * real.shape[0], real)
