"""FasterVLM: keep the tokens that CLS looks at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops.selection import top
from .base import FeaturePruner
from .views import FeatureView


@dataclass(frozen=True)
class FasterVLM(FeaturePruner):
    """The largest attention from CLS in the layer that the features come from, mean over the heads (arXiv 2412.01818).

    Towers without CLS use the attention that each token receives from all.
    """

    name: ClassVar[str] = "fastervlm"
    source: ClassVar[str] = "FasterVLM, arXiv 2412.01818"
    summary: ClassVar[str] = "keeps the features that CLS, or without one all tokens, attend to most"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["importance"])

    def select(self, view: FeatureView, keep: int) -> Tensor:
        if view.importance is None:
            raise ValueError("the feature view has no importance: tap what `FasterVLM.needs` asks for")
        return top(view.importance, keep).sort(dim=1).values


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official functions return: of images by the attention of CLS or a whole matrix, or of frames."""
    if "video_attn" in inputs:
        score, features = inputs["video_attn"].mean(2).flatten(0, 1), inputs["video_features"]
        kept = top(score, int(hyper_parameters["visual_token_num_per_frame"])).sort(dim=1).values
        kept = kept.view(*features.shape[:2], -1, 1).expand(-1, -1, -1, features.shape[3])
        return {"video_kept_features": features.gather(2, kept)}
    if "attn_full" in inputs:
        score, features = inputs["attn_full"][:, :, 0, 1:].mean(1), inputs["hidden"][:, 1:]
    else:
        score, features = inputs["cls_attn"].mean(1), inputs["features"]
    kept = top(score, int(hyper_parameters["visual_token_num"])).sort(dim=1).values
    return {
        "score": score,
        "kept": kept,
        "mask": torch.zeros_like(score, dtype=torch.bool).scatter(1, kept, True),
        "kept_features": features.gather(1, kept[..., None].expand(-1, -1, features.shape[2])),
    }
