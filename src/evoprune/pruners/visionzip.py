"""VisionZip: keep the tokens that CLS looks at most, CLS itself, and merge the others into a few by their keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..ops.density import unit
from ..ops.indexing import rows
from ..ops.selection import top
from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class VisionZip(FeaturePruner):
    """Dominant tokens by attention, the rest merged into contextual ones by their keys (arXiv 2412.04467, section 3).

    `keep` counts all tokens that enter the language model: CLS, then the dominant ones in raster order, then the
    contextual ones, floor(keep * contextual_ratio + 0.5) of them, in the order of their targets. A contextual token
    stands where its target is, CLS where the picture begins, at place 0.

    Towers without CLS, or with more than one patch a token, and those whose language model sees CLS anyway, use the
    attention that each token receives and have no CLS among the tokens.

    Attributes
    ----------
    contextual_ratio
        Share of the contextual tokens; 10 of 64 in the paper.
    cls
        Whether the state of CLS is one of the tokens, where the tower has one. With ``keep=1`` it is the only one.
    """

    name: ClassVar[str] = "visionzip"
    source: ClassVar[str] = "VisionZip, arXiv 2412.04467"
    summary: ClassVar[str] = "keeps CLS and the features attended to most, and merges the rest by their keys"

    _: KW_ONLY
    contextual_ratio: float = 10 / 64
    cls: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("contextual_ratio", 0.0, 1.0)
        if not isinstance(self.cls, bool):
            raise ValueError(f"cls={self.cls!r} is neither true nor false: give True or False")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["importance", "keys"] + ["cls"] * self.cls)

    def select(self, view: FeatureView, keep: int) -> Tensor:
        if view.importance is None or view.keys is None:
            raise ValueError("the feature view has no importance or no keys: tap what `VisionZip.needs` asks for")
        first, contextual = self._counts(view, keep)
        chosen = split(view.importance, keep - first - contextual, contextual)
        begin = chosen.dominant.new_zeros(len(chosen.dominant), first)
        return torch.cat((begin, chosen.dominant, chosen.targets), dim=1)

    def standing(self, view: FeatureView, chosen: Tensor) -> Tensor:
        first, contextual = self._counts(view, chosen.shape[1])
        own, targets = chosen[:, first:], chosen[:, chosen.shape[1] - contextual :]
        rank = torch.arange(first, chosen.shape[1], device=chosen.device).expand_as(own)
        if contextual:
            held = chosen.shape[1] - contextual + followed(view.keys, targets)  # type: ignore[arg-type]
        else:
            held = chosen.new_full(view.features.shape[:2], -1)
        return held.scatter(1, own, rank)

    def combine(self, units: Tensor, view: FeatureView, chosen: Tensor) -> Tensor:
        first, contextual = self._counts(view, chosen.shape[1])
        tokens, _ = merged(units, view.keys, chosen[:, first:], contextual)
        return torch.cat((view.cls[:, None].to(tokens.dtype), tokens), dim=1) if first else tokens  # type: ignore[index]

    def _counts(self, view: FeatureView, keep: int) -> tuple[int, int]:
        """Return how many of `keep` tokens are CLS, 0 or 1, and how many are contextual."""
        first = int(self.cls and view.cls is not None)
        return first, min(math.floor(keep * self.contextual_ratio + 0.5), keep - first)


class Split(NamedTuple):
    """Dominant tokens (B, d) ascending and `ranked` by falling importance, and targets (B, c) of those that are left.

    `places` (c,) are the targets' places in the list of the tokens that are left, the same in every image.
    """

    ranked: Tensor
    dominant: Tensor
    targets: Tensor
    places: Tensor


@torch.no_grad()
def split(importance: Tensor, dominant: int, contextual: int) -> Split:
    """Return the dominant tokens, and of those that are left, m in raster order, every floor(m / contextual)-th.

    Parameters
    ----------
    importance
        (B, N) attention from CLS or received.
    dominant, contextual
        How many; at most N, and at most as many as are left.
    """
    batch, length = importance.shape
    ranked = top(importance, dominant)
    ascending = ranked.sort(dim=1).values
    taken = torch.zeros(batch, length, dtype=torch.uint8, device=importance.device).scatter(1, ascending, 1)
    left = torch.sort(taken, dim=1, stable=True).indices[:, : length - ascending.shape[1]]
    contextual = min(contextual, left.shape[1])
    step = max(1, left.shape[1] // max(1, contextual))
    places = step * torch.arange(contextual, device=importance.device)
    return Split(ranked, ascending, left[:, places], places)


@torch.no_grad()
def followed(keys: Tensor, targets: Tensor) -> Tensor:
    """Return for each token which of its image's targets has the nearest key by cosine, int64 (B, N), 0 to c - 1.

    `keys` is (B, N, D), `targets` (B, c); the first of equals. A zero vector has cosine 0 to every other.
    """
    with torch.autocast(keys.device.type, enabled=False):
        # The length of the other key is the same for all targets.
        near = (keys.float() @ unit(rows(keys, targets)).transpose(1, 2)).nan_to_num_(nan=0.0)
    index = torch.arange(targets.shape[1], device=keys.device)
    return torch.where(near == near.amax(-1, keepdim=True), index, targets.shape[1]).amin(-1)


def merged(units: Tensor, keys: Tensor | None, own: Tensor, contextual: int) -> tuple[Tensor, Tensor]:
    """Return the tokens `own` (B, K), the last `contextual` of them targets to whose state that of others is added.

    All tokens that are not in `own` follow a target. The paper speaks of an average of target and followers; the
    official code, and this, adds the followers' mean, so that a target without followers stays as it is.

    Returns
    -------
    tuple of Tensor
        Tokens (B, K, U), sums in float32, and how many follow each target, float32 (B, contextual).
    """
    tokens = rows(units, own)
    if not contextual or keys is None:
        return tokens, units.new_zeros(len(units), 0, dtype=torch.float32)
    border = own.shape[1] - contextual
    with torch.no_grad():
        follows = torch.ones(units.shape[:2], device=units.device).scatter(1, own, 0.0)
        index = torch.arange(contextual, device=units.device)[:, None]
        share = (followed(keys, own[:, border:]).unsqueeze(1) == index) * follows.unsqueeze(1)
        counts = share.sum(-1)
        share = share / counts.clamp(min=1).unsqueeze(-1)
    with torch.autocast(units.device.type, enabled=False):
        sums = tokens[:, border:].float() + share @ units.float()
    return torch.cat((tokens[:, :border], sums.to(units.dtype)), dim=1), counts


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official function returns, with CLS at place 0 of ``attn``, ``keys`` and ``hidden``."""
    attention, keys, hidden = inputs["attn"], inputs["keys"][:, 1:], inputs["hidden"]
    importance, patches = attention[:, :, 0, 1:].sum(1), hidden[:, 1:]
    dominant = hyper_parameters.get("dominant_without_cls")
    dominant = int(hyper_parameters["user_dominant"]) - 1 if dominant is None else int(dominant)
    chosen = split(importance, dominant, int(hyper_parameters["contextual"]))
    own = torch.cat((chosen.dominant, chosen.targets), dim=1)
    tokens, counts = merged(patches, keys, own, chosen.targets.shape[1])
    return {
        "all_indices": torch.cat((chosen.ranked.new_zeros(len(chosen.ranked), 1), chosen.ranked + 1), dim=1),
        "output": torch.cat((hidden[:, :1], tokens), dim=1),
        "target_indices": chosen.places,
        "counts": counts.clamp(min=1).unsqueeze(-1),
    }
