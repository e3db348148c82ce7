"""EvoPrune: merge redundant tokens inside the encoder, keep the ones that others attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from .. import flops, ops
from ..ops import Matching
from ..ops.matching import SIMILARITIES, Similarity
from ..ops.merging import ORDERS, WEIGHTS, Order, Weights
from ..ops.partition import PARTITIONS, Partition
from .base import EncoderPruner
from .views import LayerView


@dataclass(frozen=True)
class EvoPrune(EncoderPruner):
    """Early-stage visual-token pruning inside the vision encoder (arXiv 2603.03681).

    Attributes
    ----------
    critical_ratio
        CTR, the share of a layer's tokens that is kept out of merging because others attend to it most.
    neighbors, bandwidth
        K nearest neighbours and tau of the distinctiveness d; None takes tau^2 from the image.
    diversity
        lambda_d, how strongly d holds tokens back from merging; 0 is the paper's ablation "without
        diversity".
    similarity
        ``"cosine"`` (literal), ``"sigmoid"`` or ``"softmax"``.
    partition
        Groups by ``"index"`` parity (literal), or alternating over the ``"mergeable"`` tokens only.
    order, weights
        Order of the survivors, and how a merged value is averaged (`ops.merge`).
    features
        What is compared: ``"hidden"`` states after attention, or the layer's mean ``"keys"``.
    proportional_attention
        Add log(size) to the key logits of later layers, as ToMe does.
    attention
        False is the paper's ablation "without attention": nothing is protected, no attention is tapped.
    """

    name: ClassVar[str] = "evoprune"
    source: ClassVar[str] = "EvoPrune, arXiv 2603.03681"
    summary: ClassVar[str] = "merges similar tokens inside the encoder, protects those that receive attention"

    _: KW_ONLY
    critical_ratio: float = 0.25
    neighbors: int = 5
    bandwidth: float | None = None
    diversity: float = 1.0
    similarity: Similarity = "cosine"
    partition: Partition = "mergeable"
    order: Order = "raster"  # type: ignore[assignment]
    weights: Weights = "size"
    features: Literal["hidden", "keys"] = "hidden"
    proportional_attention: bool = False  # type: ignore[assignment]
    attention: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("critical_ratio", 0.0, 1.0)
        self._number("neighbors", 1, whole=True)
        self._number("diversity", 0.0)
        if self.bandwidth is not None:
            self._number("bandwidth", 1e-6)
        self._choice("similarity", SIMILARITIES)
        self._choice("partition", PARTITIONS)
        self._choice("order", ORDERS)
        self._choice("weights", WEIGHTS)
        self._choice("features", ("hidden", "keys"))
        for switch in ("proportional_attention", "attention"):
            if not isinstance(getattr(self, switch), bool):
                raise ValueError(f"{switch}={getattr(self, switch)!r} is neither True nor False: give one of them")

    @property
    def needs(self) -> frozenset[str]:
        protects = self.attention and self.critical_ratio > 0
        return frozenset(["importance"] * protects + ["keys"] * (self.features == "keys"))

    def selection_flops(
        self, tokens: int, merges: Sequence[int], width: int, prefix: int, unit: int = 1, head: int | None = None
    ) -> int:
        return flops.selection(
            tokens,
            merges,
            width,
            prefix=prefix,
            unit=unit,
            importance="importance" in self.needs,
            diversity=self.diversity > 0,
            compared=head if self.features == "keys" else None,
        )

    def match(self, view: LayerView, merges: int) -> Matching:
        for need in self.needs:
            if getattr(view, need) is None:
                raise ValueError(
                    f"the layer view has no {need}: tap what `EvoPrune.needs` asks for ({sorted(self.needs)})"
                )
        return ops.match(
            view.keys if self.features == "keys" and view.keys is not None else view.hidden,
            view.importance if "importance" in self.needs else None,
            merges,
            critical_ratio=self.critical_ratio,
            neighbors=self.neighbors,
            bandwidth=self.bandwidth,
            diversity=self.diversity,
            similarity=self.similarity,
            partition=self.partition,
            protected=view.protected,
        )

    def merge(self, tokens: Tensor, sizes: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
        return ops.merge(tokens, sizes, matching, weights=self.weights, order=self.order)
