"""What a model family has to tell: where its tower, blocks and projector stand, and how many tokens there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..pruners import Pruner

STAGES = ("input", "encoder", "feature", "decoder")


class UnsupportedModel(ValueError):
    """The model has no tower that a family of `evoprune.models.FAMILIES` knows."""


class Count(NamedTuple):
    """Placeholders of one image: as the model's own processor writes them, and as many as the pruners leave."""

    full: int
    short: int


def _residual(block: nn.Module, hidden: Tensor, update: Tensor) -> Tensor:
    return hidden + update


@dataclass(frozen=True)
class BlockSpec:
    """Names of the parts of a pre-norm block ``h = h + attn(norm1(h)); h = h + mlp(norm2(h))``.

    `combine` adds the MLP's output to the residual; a family with LayerScale multiplies here.
    """

    attn: str
    norm2: str
    mlp: str
    combine: Callable[[nn.Module, Tensor, Tensor], Tensor] = _residual

    @property
    def names(self) -> tuple[str, str, str]:
        return self.attn, self.norm2, self.mlp


def chain(pruners: Sequence[Pruner], tokens: int) -> int:
    """Return how many of `tokens` patch tokens leave the pruners, which act in the order of their stages."""
    for pruner in sorted(pruners, key=lambda one: STAGES.index(one.stage)):
        tokens = pruner.tokens_after(tokens)
    return tokens


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


class Family(ABC):
    """One loaded model, seen through its family: structure and counts, never a pruning method.

    Parameters
    ----------
    model
        The transformers model that owns the tower: the one with `generate`, or its inner base model.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    examples: ClassVar[tuple[str, ...]] = ()
    block: ClassVar[BlockSpec]

    def __init__(self, model: nn.Module):
        self.model: Any = model
        self.base: Any = getattr(model, "base_model", model)

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The vision encoder."""

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """The module whose input are the features that leave the tower."""

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """The decoder that takes `inputs_embeds` and `position_ids`."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """Tokens at the front of the tower's sequence that stand for no patch (CLS)."""

    @property
    @abstractmethod
    def kept_prefix(self) -> int:
        """How many of the prefix tokens the language model sees."""

    @property
    @abstractmethod
    def feature_layers(self) -> tuple[int, ...]:
        """Indices of the hidden states in use, 0 = the embeddings, l = what leaves layer l - 1."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Patches a side of the picture as the processor makes it."""

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Pixels a side of a patch."""

    @property
    @abstractmethod
    def image_token_id(self) -> int:
        """Id of the placeholder in `input_ids`."""

    @property
    def blocks(self) -> list[nn.Module]:
        return find_blocks(self.tower, self.block)

    @property
    def tokens(self) -> int:
        """Patch tokens of one image."""
        return self.side**2

    def tokens_after(self, pruners: Sequence[Pruner]) -> Count:
        """Return an image's placeholders before and after the pruners: the one source of all counts."""
        return Count(self.tokens + self.kept_prefix, chain(pruners, self.tokens) + self.kept_prefix)

    def images(self, inputs: Mapping[str, Any]) -> int | None:
        """Return how many images `inputs` of generate or forward bring along, None if none."""
        pixels = inputs.get("pixel_values")
        return None if pixels is None else int(pixels.shape[0])

    @abstractmethod
    def check_call(self, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError if a call of `get_image_features` asks for other features than those planned for."""
