"""How many visual tokens the language model was shown of each prompt, counted while a cell runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..apply import Handle
from ..models import Family
from ..models.counts import Modality


class Shown:
    """Counts of prompts with one picture or video each.

    Parameters
    ----------
    family
        The model's.
    modality
        What the prompts show.
    handle
        Whose `stats` know the counts; None for a model without pruners, whose placeholders are counted.
    """

    def __init__(self, family: Family, modality: Modality, handle: Handle | None):
        self.family, self.modality, self.handle = family, modality, handle
        self.entered: list[int] = []
        self.left: list[Sequence[int]] = []

    @contextmanager
    def watched(self) -> Iterator[Shown]:
        """Count placeholders where no pruner tells, until the context closes."""
        if self.handle is not None:
            yield self
            return
        hook = self.family.base.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            yield self
        finally:
            hook.remove()

    def look(self) -> None:
        """Take what the handle tells of the last call."""
        if self.handle is not None:
            self.entered += self.handle.stats.visual_tokens
            self.left += self.handle.stats.decoder_tokens

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, placeholder = kwargs.get("input_ids"), self.family.token_id(self.modality)
        if isinstance(ids, Tensor) and placeholder is not None:
            self.entered += [n for n in (ids == placeholder).sum(1).tolist() if n]  # none in what is decoded

    @property
    def tokens(self) -> float | None:
        """Visual tokens that enter the language model, the mean over prompts; None without any."""
        return sum(self.entered) / len(self.entered) if self.entered else None

    @property
    def layers(self) -> tuple[float, ...]:
        """Visual tokens that leave each layer, the mean over prompts; empty where no pruner acts there."""
        return tuple(sum(column) / len(column) for column in zip(*self.left, strict=True))
