"""The blocks of a tower: what their parts are called, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


class UnsupportedModel(ValueError):
    """The model has no tower that a family of `evoprune.models.FAMILIES` knows."""


def _residual(block: nn.Module, hidden: Tensor, update: Tensor) -> Tensor:
    return hidden + update


@dataclass(frozen=True)
class BlockSpec:
    """Names of the parts of a pre-norm block ``h = h + attn(norm1(h)); h = h + mlp(norm2(h))``.

    `combine` adds the MLP's output to the residual; a family with LayerScale multiplies here. `in_place` says that the
    block adds the residual to the MLP's output in place, which then must have the residual's shape.
    """

    attn: str
    norm2: str
    mlp: str
    combine: Callable[[nn.Module, Tensor, Tensor], Tensor] = _residual
    in_place: bool = False

    @property
    def names(self) -> tuple[str, str, str]:
        return self.attn, self.norm2, self.mlp


def find_blocks(tower: nn.Module, spec: BlockSpec) -> list[nn.Module]:
    """Return the blocks of `tower`: the items of the ModuleList whose items have the names of `spec`.

    Raises
    ------
    UnsupportedModel
        No such list.
    """
    for module in tower.modules():
        if isinstance(module, nn.ModuleList) and len(module) and all(_fits(item, spec) for item in module):
            return list(module)
    raise UnsupportedModel(
        f"{type(tower).__name__} has no list of blocks with the parts {', '.join(spec.names)}: "
        "see 'add a model family' in AGENTS.md"
    )


def _fits(block: nn.Module, spec: BlockSpec) -> bool:
    return all(isinstance(getattr(block, name, None), nn.Module) for name in spec.names)
