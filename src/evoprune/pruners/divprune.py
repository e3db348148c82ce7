"""DivPrune: keep the tokens that are farthest from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import ops
from ..ops.selection import max_min_diversity
from .base import NOTHING, FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class DivPrune(FeaturePruner):
    """Max-min diversity of the visual tokens (arXiv 2503.02175), each picture, tile or frame by itself.

    Attributes
    ----------
    space
        Where distances are measured: ``"projected"`` features, which enter the language model (literal), or the
        ``"features"`` of the tower, which lets the projector do with the tokens that stay.

    Notes
    -----
    The official code spreads one budget over all tiles of a picture and their newline tokens; here each tile keeps as
    many, and newlines are no candidates.
    """

    name: ClassVar[str] = "divprune"
    source: ClassVar[str] = "DivPrune, arXiv 2503.02175"
    summary: ClassVar[str] = "keeps the features that are farthest from each other after the projector"

    _: KW_ONLY
    space: Literal["projected", "features"] = "projected"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("space", ("projected", "features"))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["projected"]) if self.space == "projected" else NOTHING

    def select(self, view: FeatureView, keep: int) -> Tensor:
        return max_min_diversity(view.features, keep).sort(dim=1).values


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official functions return for one image (N, D): ``selected``, ``kept`` and ``distance``.

    Without a count ``T`` it is ``threshold_ratio`` of the tokens, rounded half to even, as the official code has it.
    """
    features = inputs["x"][None]
    keep = hyper_parameters.get("T")
    if keep is None:
        keep = round(hyper_parameters.get("threshold_ratio", 1.0) * features.shape[1])
    (selected,) = max_min_diversity(features, int(keep))
    (cosine,) = ops.cosines(features)
    return {"selected": selected, "kept": torch.sort(selected).values, "distance": 1.0 - cosine}
