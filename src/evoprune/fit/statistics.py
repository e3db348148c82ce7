"""What a layer's attention gives the visual tokens of one prompt, summed as it runs: no matrix is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.attention_sums import attention_sums

# (cross, within) of each block, each (n,) -> which of its tokens go, bool (n,)
Chooser = Callable[[list[tuple[Tensor, Tensor]]], list[Tensor]]


class Places:
    """Where the visual tokens of one prompt stand, and its text.

    Parameters
    ----------
    visual
        bool (S,). Each run of adjacent ones is a block: a picture, a video, a frame between time stamps.
    """

    def __init__(self, visual: Tensor):
        flags = visual.cpu()
        if not bool(flags.any()):
            raise ValueError("a prompt of the fit holds no visual token: give every prompt a picture or a video")
        number = (flags & ~torch.cat((flags.new_zeros(1), flags[:-1]))).cumsum(0)
        self.block = torch.where(flags, number - 1, torch.full_like(number, -1))  # on the CPU, as all that is decided
        self.sizes = torch.bincount(number[flags] - 1).tolist()
        ends = [int((number == i + 1).logical_and(flags).nonzero()[-1]) for i in range(len(self.sizes))]
        self.behind = [max(1, int((~flags[end:]).sum())) for end in ends]  # text that can see the block

    def weights(self, columns: Tensor) -> Tensor:
        """Return float32 (1, 1 + blocks, S') over the queries that are left: all text, then the mean of each block."""
        block = self.block[columns]
        rows = [(block < 0).float()]
        for number in range(len(self.sizes)):
            own = (block == number).float()
            rows.append(own / own.sum())
        return torch.stack(rows).unsqueeze(0)


class Watch:
    """The watcher (`models.drop_layer.Watcher`) of all layers, which run one after the other on one prompt.

    Attributes
    ----------
    columns
        int64 (S',) on the CPU: which columns of the prompt are left.
    sums
        For each block (cross, within) of the layer that ran last: the largest of the heads, the mean over the text
        behind the block, and over the block's own queries that are left.
    choose_from
        Says what goes; None keeps everything.
    """

    def __init__(self, places: Places, choose_from: Chooser | None = None):
        self.places, self.choose_from = places, choose_from
        self.columns = torch.arange(len(places.block))
        self.sums: list[tuple[Tensor, Tensor]] = []

    def look(self, query: Tensor, key: Tensor, scaling: float, mask: Any) -> None:
        if mask is not None and not isinstance(mask, Tensor):
            raise ValueError(
                f"the attention backend masks by a {type(mask).__name__}, which the fit cannot read: load the model "
                "with attn_implementation='sdpa'"
            )
        full = None if mask is None or mask.dim() < 4 else mask  # one prompt has no padding: causal is all there is
        weights = self.places.weights(self.columns).to(query.device)
        found = attention_sums(query, key, scaling, weights, mask=full)[0].cpu()
        block = self.places.block[self.columns]
        self.sums = [
            (found[0, block == number] / self.places.behind[number], found[1 + number, block == number])
            for number in range(len(self.places.sizes))
        ]

    def choose(self, hidden: Tensor) -> Tensor | None:
        if self.choose_from is None:
            return None
        stays, block = torch.ones(hidden.shape[1], dtype=torch.bool), self.places.block[self.columns]
        for number, gone in enumerate(self.choose_from(self.sums)):
            stays[block == number] = ~gone
        index = stays.nonzero()[:, 0]
        self.columns = self.columns[index]
        return index.unsqueeze(0).to(hidden.device)

    def left(self) -> list[int]:
        """Return how many tokens of each block are left."""
        block = self.places.block[self.columns]
        return torch.bincount(block[block >= 0], minlength=len(self.places.sizes)).tolist()


def totals(sums: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
    """Return the float64 totals over each block's tokens."""
    return [(float(cross.double().sum()), float(within.double().sum())) for cross, within in sums]
