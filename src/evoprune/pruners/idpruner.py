"""IDPruner: keep tokens that matter, each unlike those picked before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops.marginal_relevance import maximal_marginal_relevance
from .base import FeaturePruner
from .views import FeatureView

_EPSILON = 1e-6


@dataclass(frozen=True)
class IDPruner(FeaturePruner):
    """Maximal marginal relevance: importance against the similarity to what is picked already (AngelSlim).

    The official method scores tokens by a selector that was trained for it, which is no part of this library. Here the
    importance is the attention from CLS, or without one the attention received; `important_and_novel` takes any scores.

    Attributes
    ----------
    balance
        Weight of importance against novelty, 0 to 1 (the official ``mmr_lambda``).
    parallel
        Tokens picked at a time, without regard to each other (the official ``parallel_k``).
    """

    name: ClassVar[str] = "idpruner"
    source: ClassVar[str] = "IDPruner (selection only), Tencent AngelSlim"
    summary: ClassVar[str] = "keeps the features attended to that are least like those kept already (MMR)"

    _: KW_ONLY
    balance: float = 0.5
    parallel: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("balance", 0.0, 1.0)
        self._number("parallel", 1, whole=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["importance", "projected"])

    def select(self, view: FeatureView, keep: int) -> Tensor:
        if view.importance is None:
            raise ValueError("the feature view has no importance: tap what `IDPruner.needs` asks for")
        chosen = important_and_novel(view.features, view.importance, keep, self.balance, self.parallel)
        return chosen.sort(dim=1).values


@torch.no_grad()
def important_and_novel(features: Tensor, scores: Tensor, keep: int, balance: float = 0.5, parallel: int = 1) -> Tensor:
    """Return `keep` tokens of features (B, N, C) by any scores (B, N), in the order of the picks, int64 (B, keep).

    Scores are scaled to 0..1 in each row first.
    """
    low, high = scores.float().aminmax(dim=1, keepdim=True)
    importance = (scores.float() - low) / (high - low + _EPSILON)
    return maximal_marginal_relevance(features, importance, keep, balance=balance, parallel=parallel)


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official function returns for one picture: features (N, D), scores (N,) of its selector."""
    scores = inputs["scores"][None]
    share = 1.0 - float(hyper_parameters.get("ratio_dropped", 0.0))
    keep = int(hyper_parameters.get("keep", max(1, round(scores.shape[1] * share))))
    selected = important_and_novel(
        inputs["features"][None], scores, keep,
        float(hyper_parameters.get("mmr_lambda", 0.5)), int(hyper_parameters.get("parallel_k", 1)),
    )  # fmt: skip
    if keep == scores.shape[1]:  # the official code does not choose then
        selected = selected.sort(dim=1).values
    return {"selected": selected[0], "mask": torch.zeros_like(scores, dtype=torch.bool).scatter(1, selected, True)}
