"""The text of each row of a prompt as one vector, and the units of a picture in the same space."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..ops import unit
from .base import Family
from .facts import Facts
from .text_towers import TextTower


class Embeddings:
    """The mean of the language model's own input embeddings of the text, beside units behind the projector.

    Special tokens are no text: those that the model's config names, and those of the processor's `tokenizer`, if any.
    """

    kind = "embeddings"

    def __init__(self, family: Family, tokenizer: Any = None):
        known = getattr(tokenizer, "all_special_ids", None)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marks = [i for i, token in added.items() if getattr(token, "special", False)]
        self.special = sorted({*(known or ()), *marks, *_named_ids(family.model)})
        self.embed = family.model.get_input_embeddings()

    @torch.no_grad()
    def vectors(self, facts: Facts) -> Tensor:
        """Return float32 (B, C) of length 1; zeros for a row without text."""
        ids: Any = facts.ids
        text = self._text(facts).to(ids.device)
        states = self.embed(ids.masked_fill(~text, 0)).float()
        return unit((states * text[..., None].to(states.device)).sum(1))

    def silent(self, facts: Facts) -> list[bool]:
        """Return for each row whether it has no text."""
        return (~self._text(facts).any(dim=1)).tolist()

    def _text(self, facts: Facts) -> Tensor:
        """Return bool (B, S) on the CPU."""
        return facts.text & ~torch.isin(facts.ids.cpu(), torch.tensor(self.special))  # type: ignore[union-attr]

    def units(self, projected: Tensor, entered: Tensor | None) -> Tensor:
        """Return the units (G, N, C) that the vectors compare with."""
        return projected


class Words:
    """The text in words, read by a text tower beside the patch states of the vision tower that belongs to it."""

    def __init__(self, tower: TextTower, tokenizer: Any):
        self.tower, self.tokenizer, self.kind = tower, tokenizer, tower.kind

    def vectors(self, facts: Facts) -> Tensor:
        """Return float32 (B, D), the mean of the unit vectors of each row's segments; zeros for a row without text."""
        return self.tower.questions(list(self.texts(facts)))

    def silent(self, facts: Facts) -> list[bool]:
        """Return for each row whether it has no text."""
        return [not text for text in self.texts(facts)]

    def texts(self, facts: Facts) -> Iterator[str]:
        """Yield the words of each row without special and visual tokens; what stood apart is parted by a blank."""
        ids: Any = facts.ids
        for row, text in zip(ids.tolist(), facts.text.tolist(), strict=True):
            runs = [list(run) for real, run in groupby(zip(row, text, strict=True), key=lambda one: one[1]) if real]
            parts = [self.tokenizer.decode([i for i, _ in run], skip_special_tokens=True) for run in runs]
            yield " ".join(" ".join(parts).split())

    def units(self, projected: Tensor, entered: Tensor | None) -> Tensor:
        """Return the units (G, N, D) that the vectors compare with."""
        if entered is None:
            raise ValueError("the text tower compares patch states of the vision tower: give them beside the units")
        return self.tower.patches(entered)


def _named_ids(model: Any) -> set[int]:
    """Return the ids that a model's configs call a token of their own (``..._token_id``)."""
    configs = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    found: set[int] = set()
    for values in (vars(config) for config in configs if config is not None):
        for name, value in values.items():
            if name.endswith(("_token_id", "_token_index")):
                found |= {one for one in (value if isinstance(value, (list, tuple)) else [value]) if type(one) is int}
    return found
