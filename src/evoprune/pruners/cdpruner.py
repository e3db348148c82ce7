"""CDPruner: keep tokens that bear on the question and differ from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..ops import cosines, unit
from ..ops.density import RESOLUTION
from ..ops.determinantal import greedy_map
from .base import FeaturePruner
from .views import FeatureView

_EPSILON = 1e-6  # in the numerator of the min-max alone
_THETA = 0.98  # above, float32 cannot hold the kernel


@dataclass(frozen=True)
class CDPruner(FeaturePruner):
    """Greedy MAP of a determinantal point process, conditioned on relevance to the question (arXiv 2506.10967).

    Attributes
    ----------
    text_tower
        What tells how much a token bears on the question: the name or folder of the CLIP or SigLIP that the vision
        tower was taken from, that model itself, or ``"embeddings"``: the language model's own input embeddings of the
        question, which every family has. There is no default: one or the other has to be chosen.
    relevance_sign
        -1 takes tokens of small cosine for relevant, as the authors found for patches of CLIP; 1 those of large ones.
        None is -1 where `apply` finds a CLIP, else 1.
    theta
        Weight of relevance against diversity, 0 (none) to 0.98; None, as the official code by default, takes relevance
        itself instead of its exponential.

    Notes
    -----
    Relevance is scaled to 0..1 over all tiles of a picture; each tile, or frame of a video, keeps as many. Where all
    tokens are as relevant, diversity alone decides; where the tokens picked span all others, relevance. The question is
    all text of a prompt but its special tokens, so the words of a chat template too; the official code has it alone.
    """

    name: ClassVar[str] = "cdpruner"
    source: ClassVar[str] = "CDPruner, arXiv 2506.10967"
    summary: ClassVar[str] = "keeps the features that bear on the question and differ from each other (DPP)"

    _: KW_ONLY
    text_tower: str | nn.Module | None = None
    relevance_sign: int | None = None
    theta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        tower = self.text_tower
        if not (tower is None or isinstance(tower, nn.Module) or (isinstance(tower, str) and tower.strip())):
            raise ValueError(
                f"text_tower={tower!r} is no text tower: give the name or folder of a CLIP or SigLIP, a module, or "
                "'embeddings'"
            )
        if self.relevance_sign is not None:
            self._number("relevance_sign", -1, 1, whole=True)
            if not self.relevance_sign:
                raise ValueError("relevance_sign=0 makes every token as relevant: give -1, 1 or None")
        if self.theta is not None:
            self._number("theta", 0.0, _THETA)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["projected", "relevance"])

    def to_dict(self) -> dict[str, Any]:
        if isinstance(self.text_tower, nn.Module):
            raise ValueError(
                f"text_tower is a {type(self.text_tower).__name__} in memory, which JSON cannot hold: give its name or "
                "folder instead"
            )
        return super().to_dict()

    def settled(self, kind: str) -> CDPruner:
        """Return the pruner with the sign that a text tower of `kind` ("clip", or another) has by default."""
        if self.relevance_sign is not None:
            return self
        return replace(self, relevance_sign=-1 if kind == "clip" else 1)

    def select(self, view: FeatureView, keep: int) -> Tensor:
        if view.relevance is None:
            raise ValueError("the feature view has no relevance: show what `CDPruner.needs` asks for")
        sign = 1 if self.relevance_sign is None else self.relevance_sign
        relevance = scaled(sign * view.relevance, view.owners)
        return conditional_map(view.features, relevance, keep, self.theta).sort(dim=1).values


@torch.no_grad()
def scaled(relevance: Tensor, owners: Tensor | None = None) -> Tensor:
    """Return relevance (B, N) as float32 in (0, 1 + 1e-6] of the spread over all rows of a picture; 1 if there is none.

    Parameters
    ----------
    owners
        int64 (B,), which rows are tiles of one picture; None: each is a picture of its own.

    Notes
    -----
    Spreads below 1e-6 are rounding: cosines of equal tokens. The official code divides by them, and spreads the
    relevance over the whole batch, which is one picture's tiles there.
    """
    values = relevance.float()
    low, high = values.amin(1), values.amax(1)
    if owners is not None:
        same = owners[:, None] == owners
        low = torch.where(same, low, float("inf")).amin(1)
        high = torch.where(same, high, float("-inf")).amax(1)
    spread = (high - low)[:, None]
    some = spread > RESOLUTION
    return torch.where(some, (values - low[:, None] + _EPSILON) / torch.where(some, spread, 1.0), 1.0)


def conditional_map(features: Tensor, relevance: Tensor, keep: int, theta: float | None = None) -> Tensor:
    """Return `keep` tokens of features (B, N, C) in the order of the picks, int64 (B, keep), by scaled relevance."""
    kernel = cosines(features).nan_to_num_(nan=0.0)
    return greedy_map(kernel, keep, weights=_weights(relevance, theta), fill=relevance)


def _weights(relevance: Tensor, theta: float | None) -> Tensor:
    return relevance if theta is None else torch.exp(theta / (2.0 * (1.0 - theta)) * relevance)


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official function returns for one picture's crops (B, N, D) and segments of a question (M, C)."""
    features, theta = inputs["features"], hyper_parameters.get("theta")
    cosine = unit(inputs["image_embeds"]) @ unit(inputs["text_embeds"]).mean(0)
    owners = torch.zeros(len(features), dtype=torch.int64)
    relevance = scaled(int(hyper_parameters.get("relevance_sign", -1)) * cosine, owners)
    weights = _weights(relevance, theta)
    selected = conditional_map(features, relevance, int(hyper_parameters["visual_token_num"]), theta)
    return {
        "selected": selected,
        "kept": selected.sort(dim=1).values,
        "mask": torch.zeros_like(relevance, dtype=torch.bool).scatter(1, selected, True),
        "relevance": relevance,
        "kernel": weights[:, :, None] * cosines(features) * weights[:, None, :],
    }
