"""What a layer of the language model shows of its visual tokens, from the queries and keys that its attention has."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.attention_sums import attention_sums
from ..pruners import DecoderView
from .decoder_layout import Group, Sequences


class Look:
    """Notes what the pruner needs while a layer attends, and cuts it into blocks afterwards."""

    def __init__(self, needs: frozenset[str]):
        self.needs = needs
        self.attention: Tensor | None = None  # (B, W)
        self.cross: Tensor | None = None  # (B, W)
        self.within: Tensor | None = None  # (B, most blocks of a row, W)
        self.keys: Tensor | None = None  # (B, W, heads * D)

    def take(self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, rows: Sequences) -> None:
        """Look at queries (B, H, W, D) and keys (B, Hk, past + W, D) of the `rows` that run."""
        width = query.shape[2]
        if mask is not None and mask.ndim == 2:  # flash attention's: which keys are there
            earlier = key.shape[2] - width
            order = torch.ones(width, key.shape[2], dtype=torch.bool, device=mask.device).tril(earlier)
            mask = mask.bool()[:, None, None] & order
        if "attention" in self.needs:
            self.attention = self._of_last(query, key, scaling, mask, rows)
        if "sums" in self.needs:
            weights = _weights(rows).to(query.device)
            sums = attention_sums(query, key, scaling, weights, mask=mask)[..., -width:]
            self.cross, self.within = sums[:, 0], sums[:, 1:]
        if "keys" in self.needs:
            new = key[:, :, -width:].repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            self.keys = new.transpose(1, 2).flatten(2)

    @staticmethod
    def _of_last(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, rows: Sequences) -> Tensor:
        """Return what the last token of each row, the caller's padding aside, attends to, (B, W)."""
        width = query.shape[2]
        last = (rows.real * torch.arange(1, width + 1)).argmax(dim=1).to(query.device)
        asking = query.gather(2, last[:, None, None, None].expand(-1, query.shape[1], 1, query.shape[3]))
        if mask is None:
            places = torch.arange(key.shape[2], device=query.device)
            seen = (places <= (last + key.shape[2] - width)[:, None])[:, None, None]
        else:
            every = mask.expand(query.shape[0], -1, -1, -1)
            seen = every.gather(2, last[:, None, None, None].expand(-1, every.shape[1], 1, every.shape[3]))
        weights = torch.ones(query.shape[0], 1, 1, device=query.device)
        return attention_sums(asking, key, scaling, weights, mask=seen, causal=False, reduce="mean")[:, 0, -width:]

    def view(self, group: Group, rows: Sequences, hidden: Tensor | None) -> DecoderView:
        """Return what is known of the blocks of a group; `hidden` (B, W, C) leaves the layer."""
        spans = [rows.spans[i] for i in group.members]
        place = self._device(hidden)
        row = torch.tensor([span.row for span in spans], device=place)
        start = torch.tensor([span.start for span in spans], device=place)
        columns = start[:, None] + torch.arange(group.tokens, device=place)
        numbers = rows.numbers
        number = torch.tensor([numbers[i] for i in group.members], device=place)
        values = {
            "attention": None if self.attention is None else self.attention[row].gather(1, columns),
            "cross": None if self.cross is None else self.cross[row].gather(1, columns),
            "within": None if self.within is None else self.within[row, number].gather(1, columns),
            "hidden": None if hidden is None else hidden[row[:, None], columns],
            "keys": None if self.keys is None else self.keys[row[:, None], columns],
        }
        if hidden is not None or self.keys is not None:
            table, there = rows.behind(group.members)
            table, values["text_mask"] = table.to(place), there.to(place)
            values["text_hidden"] = None if hidden is None else hidden[row[:, None], table]
            values["text_keys"] = None if self.keys is None else self.keys[row[:, None], table]
        return DecoderView(**values)

    def _device(self, hidden: Tensor | None) -> torch.device:
        known = (self.attention, self.cross, self.keys, hidden)
        return next((one.device for one in known if one is not None), torch.device("cpu"))

    def forget(self) -> None:
        """Let go of what the last layer left."""
        self.attention = self.cross = self.within = self.keys = None


def _weights(rows: Sequences) -> Tensor:
    """Return float32 (B, 1 + most blocks of a row, W): the queries that are text, and the mean of each block's own."""
    blocks = rows.numbers
    weights = torch.zeros(len(rows.pads), 2 + max(blocks, default=-1), rows.width)
    weights[:, 0] = rows.text
    for (row, start, tokens), number in zip(rows.spans, blocks, strict=True):
        weights[row, 1 + number, start : start + tokens] = 1.0 / tokens
    return weights
