"""VisPruner: keep the tokens that CLS looks at most, and of the others those with the fewest duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops import cosines
from ..ops.indexing import rows
from ..ops.selection import top
from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class VisPruner(FeaturePruner):
    """Important tokens by attention, diverse ones by taking out near duplicates round by round (arXiv 2412.01818).

    Towers without CLS use the attention that each token receives from all.

    Attributes
    ----------
    important_ratio
        Share of the tokens kept that are chosen by attention; 1 is FasterVLM.
    removed_per_round
        How many duplicates are taken out before the next pairing.
    """

    name: ClassVar[str] = "vispruner"
    source: ClassVar[str] = "VisPruner, arXiv 2412.01818"
    summary: ClassVar[str] = "keeps the features attended to most, and of the rest those with the fewest duplicates"

    _: KW_ONLY
    important_ratio: float = 0.5
    removed_per_round: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("important_ratio", 0.0, 1.0)
        self._number("removed_per_round", 1, whole=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["importance"])

    def select(self, view: FeatureView, keep: int) -> Tensor:
        if view.importance is None:
            raise ValueError("the feature view has no importance: tap what `VisPruner.needs` asks for")
        chosen = important_and_diverse(
            view.features, view.importance, keep, self.important_ratio, self.removed_per_round
        )
        return torch.cat(chosen, dim=1).sort(dim=1).values


@torch.no_grad()
def important_and_diverse(
    features: Tensor, importance: Tensor, keep: int, ratio: float, removed: int
) -> tuple[Tensor, Tensor]:
    """Return int(keep * ratio) important tokens by rank, and the diverse ones that fill up to `keep`, int64 each.

    The rest stands in a list, by falling importance. Each round pairs the tokens at its even places with their most
    similar ones at odd places, and takes out those with the closest; what is left of the even places, by falling
    similarity, and then the odd ones are the next list.

    Parameters
    ----------
    features, importance
        (B, N, C) and (B, N).
    removed
        Tokens taken out a round, at most.

    Notes
    -----
    Section 3 of arXiv 2412.01818. Where the official code fails (lists of odd length, more to take out than even
    places), the even places are the longer half, and at most all of them go.
    """
    order, first = top(importance, importance.shape[1]), int(keep * ratio)
    rest, last = order[:, first:], keep - first
    if not last:
        return order[:, :first], rest[:, :0]
    near = cosines(features).nan_to_num_(nan=0.0)
    while rest.shape[1] > last:
        a, b = rest[:, 0::2], rest[:, 1::2]
        gone = min(removed, rest.shape[1] - last, a.shape[1])
        closest = rows(near, a).gather(2, b.unsqueeze(1).expand(-1, a.shape[1], -1)).amax(-1)
        rest = torch.cat((a.gather(1, top(closest, a.shape[1])[:, gone:]), b), dim=1)
    return order[:, :first], rest


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official functions return, by the attention of CLS or, without CLS, by a whole matrix."""
    received = "siglip_attn" in inputs
    score = inputs["siglip_attn"].mean((1, 2)) if received else inputs["cls_attn"].mean(1)
    important, diverse = important_and_diverse(
        inputs["features"], score, int(hyper_parameters["visual_token_num"]),
        float(hyper_parameters.get("important_ratio", 0.5)), int(hyper_parameters.get("tokens_removed_per_round", 8)),
    )  # fmt: skip
    kept = torch.cat((important, diverse), dim=1).sort(dim=1).values
    mask = torch.zeros_like(score, dtype=torch.bool).scatter(1, kept, True)
    return {"important": important, "diverse": diverse, "kept": kept, "mask": mask}
