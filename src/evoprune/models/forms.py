"""How hidden states lie in a tower: one row a picture, or all pictures behind one another; and in which units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .base import Grid
    from .state import Run


class Form(ABC):
    """Turns hidden states into one tensor (G, T, unit * C) for each group of equal pictures, and back."""

    prefix: int
    unit_side: int

    @property
    def unit(self) -> int:
        """Patches of a unit."""
        return self.unit_side**2

    @abstractmethod
    def split(self, hidden: Tensor, run: Run) -> list[Tensor]:
        """Return the units (G, T, unit * C) of each of `run.groups`; prefix tokens are left out.

        From then on hidden states are in the order of their units.
        """

    @abstractmethod
    def join(self, hidden: Tensor, parts: list[Tensor], run: Run) -> Tensor:
        """Return hidden states with the groups' units `parts`, whose number may have changed."""

    @abstractmethod
    def sequences(self, query: Tensor, key: Tensor, run: Run) -> list[tuple[Tensor, Tensor]]:
        """Return the queries and keys (B, H, T, D) that attend to each other, in order."""

    @abstractmethod
    def arrange(self, patches: list[Tensor], run: Run) -> list[Tensor]:
        """Return patch values (B, T, D) of all sequences, prefix off, as units (G, T, unit * D) of each group."""

    @abstractmethod
    def spread(self, values: list[Tensor], run: Run) -> Tensor:
        """Return unit values (G, T) of each group as patch values (B, T), prefix off, as hidden states lie."""

    def scores(self, received: list[Tensor], run: Run) -> list[Tensor]:
        """Return patch scores (B, T) of all sequences, prefix off, as unit means (G, T) of each group."""
        if self.unit == 1 and len(received) == 1:
            return received
        return [units.mean(-1) for units in self.arrange([one[..., None] for one in received], run)]


class Batched(Form):
    """(B, prefix + patches, C): every picture has the same grid, in raster order until units are first needed."""

    def __init__(self, prefix: int = 0, unit_side: int = 1):
        self.prefix, self.unit_side = prefix, unit_side

    def split(self, hidden: Tensor, run: Run) -> list[Tensor]:
        units = self.arrange([hidden[:, self.prefix :]], run)
        run.in_units = True
        return units

    def arrange(self, patches: list[Tensor], run: Run) -> list[Tensor]:
        (values,) = patches
        expected = run.groups[0].left * self.unit if run.groups else 0
        if values.shape[1] != expected:
            raise ValueError(
                f"{values.shape[1]} patch tokens reach a layer where the pruner planned for {expected}: "
                "give pictures of the size that the model's processor makes"
            )
        if self.unit == 1:
            return [values]
        if not run.in_units:
            values = values[:, unit_order(run.groups[0].budget.grid, self.unit_side, values.device)]
        return [values.reshape(values.shape[0], -1, self.unit * values.shape[2])]

    def join(self, hidden: Tensor, parts: list[Tensor], run: Run) -> Tensor:
        patches = parts[0].reshape(hidden.shape[0], -1, hidden.shape[2])
        return torch.cat((hidden[:, : self.prefix], patches), dim=1) if self.prefix else patches

    def sequences(self, query: Tensor, key: Tensor, run: Run) -> list[tuple[Tensor, Tensor]]:
        return [(query, key)]

    def spread(self, values: list[Tensor], run: Run) -> Tensor:
        return values[0].repeat_interleave(self.unit, dim=1)


class Packed(Form):
    """(patches of all pictures, C): each picture is a sequence of its own, its patches in the order of its units."""

    def __init__(self, unit_side: int):
        self.prefix, self.unit_side = 0, unit_side

    def split(self, hidden: Tensor, run: Run) -> list[Tensor]:
        lengths = [left * self.unit for left in run.lefts]
        if hidden.shape[0] != sum(lengths):
            raise ValueError(
                f"{hidden.shape[0]} patch tokens reach a layer where the pruner planned for {sum(lengths)}: give the "
                "grids that belong to the pictures"
            )
        run.in_units = True
        if len(run.groups) == 1:
            return [hidden.reshape(len(lengths), run.lefts[0], -1)]
        return self.arrange(list(hidden[None].split(lengths, 1)), run)

    def arrange(self, patches: list[Tensor], run: Run) -> list[Tensor]:
        if len(patches) != run.images:  # of windows, which lie picture by picture too
            patches = list(torch.cat(patches, dim=1).split([left * self.unit for left in run.lefts], 1))
        rows = [one.reshape(-1, self.unit * one.shape[-1]) for one in patches]
        return [torch.stack([rows[i] for i in group.items]) for group in run.groups]

    def join(self, hidden: Tensor, parts: list[Tensor], run: Run) -> Tensor:
        if len(parts) == 1:
            return parts[0].reshape(-1, hidden.shape[1])
        rows = run.by_item([list(part) for part in parts])
        return torch.cat([row.reshape(-1, hidden.shape[1]) for row in rows])

    def sequences(self, query: Tensor, key: Tensor, run: Run) -> list[tuple[Tensor, Tensor]]:
        lengths = [left * self.unit for left in run.lefts]
        if len(lengths) == 1 or query.shape[2] != sum(lengths):
            return [(query, key)]  # sdpa and eager come once for each sequence
        return list(zip(query.split(lengths, 2), key.split(lengths, 2), strict=True))

    def spread(self, values: list[Tensor], run: Run) -> Tensor:
        items = values[0].flatten() if len(values) == 1 else torch.cat(run.by_item([list(one) for one in values]))
        return items.repeat_interleave(self.unit)[None]


def unit_means(units: Tensor, patches: int) -> Tensor:
    """Return one vector a unit: of several patches the mean of their L2-normalised hidden states, in float32.

    `units` is (G, T, patches * C); the result (G, T, C). A unit of one patch is returned as it is.
    """
    if patches == 1:
        return units
    each = units.float().unflatten(-1, (patches, -1))
    return nn.functional.normalize(each, dim=-1).mean(dim=2)


def unit_order(grid: Grid, side: int, device: torch.device) -> Tensor:
    """Return the raster indices of a grid's patches unit by unit, raster order inside each, int64 (rows * columns,)."""
    rows, columns = grid
    index = torch.arange(rows * columns, device=device).view(rows // side, side, columns // side, side)
    return index.transpose(1, 2).flatten()
