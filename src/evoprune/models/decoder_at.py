"""The layers of a language model that drop tokens: they look at the attention, choose, and move the rows up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .decoder_views import Look

if TYPE_CHECKING:
    from .decoder import Decoder


class At:
    """The watcher of one layer that drops."""

    def __init__(self, decoder: Decoder, layer: int):
        self.decoder, self.layer = decoder, layer
        self.notes = Look(decoder.pruner.needs)

    def look(self, query: Tensor, key: Tensor, scaling: float, mask: Any) -> None:
        run = self.decoder.run
        self.notes.forget()
        if run is not None and self.layer in run.drops:
            self.notes.take(query, key, scaling, mask, run.rows)

    @torch.no_grad()
    def choose(self, hidden: Tensor) -> Tensor | None:
        run, pruner = self.decoder.run, self.decoder.pruner
        if run is None or self.layer not in run.drops:
            return None
        keeps = run.drops[self.layer]
        drop = run.rows.drop(keeps)
        states = self.decoder.model.norm(hidden).to(hidden.device) if "hidden" in pruner.needs else None
        index = drop.index.to(hidden.device)
        for group in run.rows.groups(keeps):
            chosen = pruner.select(self.notes.view(group, run.rows, states), group.keep).to(hidden.device)
            old = torch.tensor([run.rows.spans[i].start for i in group.members], device=hidden.device)
            new = torch.tensor(
                [drop.after.spans[i].row * drop.after.width + drop.after.spans[i].start for i in group.members]
            )
            where = (new[:, None] + torch.arange(group.keep)).flatten().to(hidden.device)
            index = index.flatten().scatter(0, where, (old[:, None] + chosen).flatten()).view_as(index)
        before = run.alive
        kept = index.clamp(min=0)
        run.alive = torch.where(index < 0, -1, kept if before is None else before.to(hidden.device).gather(1, kept))
        run.rows = drop.after
        self.notes.forget()
        return index
