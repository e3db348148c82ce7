"""What a method is: a frozen dataclass that knows how many tokens stay, and a pure function that says
which."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, Literal

from torch import Tensor

from .. import flops, ops, schedules
from ..errors import unknown
from ..ops import Matching
from ..ops.indexing import rows
from ..ops.merging import Order
from ..recipes import Identity
from .views import DecoderView, FeatureView, LayerView

Positions = Literal["contiguous", "original"]
Stage = Literal["input", "encoder", "feature", "decoder"]
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Pruner:
    """A pruning method with its settings: hashable, comparable, and JSON by `to_dict` / `from_dict`.

    Attributes
    ----------
    keep
        Tokens that stay of each image, tile or frame: an int, or a float share in (0, 1].
    positions
        Positions of the survivors in the language model: ``"contiguous"`` or their ``"original"`` ones.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    source: ClassVar[str]
    summary: ClassVar[str]

    keep: int | float
    _: KW_ONLY
    positions: Positions = "contiguous"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", schedules.check_keep(self.keep))
        self._choice("positions", ("contiguous", "original"))

    @property
    def minimum(self) -> int:
        """The fewest tokens that this method can leave of more."""
        return 1

    def count(self, n: int) -> int:
        """Return how many of `n` tokens `keep` asks for.

        Raises
        ------
        ValueError
            An int `keep` above `n`, or fewer tokens than the method's `minimum`.
        """
        kept = schedules.count(self.keep, n)
        if kept < min(self.minimum, n):
            raise ValueError(
                f"keep={self.keep} leaves {kept} of {n} tokens, but {self.name} with these settings leaves at least "
                f"{self.minimum}: keep more, or choose another method"
            )
        return kept

    def tokens_after(self, n: int) -> int:
        """Return how many of `n` tokens this method leaves, known from `n` alone."""
        return self.count(n)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": name, ...every field}`` as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"method": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Pruner:
        """Build the pruner that `to_dict` wrote; fields that are left out take their defaults.

        Raises
        ------
        ValueError
            No or an unknown method, an unknown field (each with the nearest name), or a value that the method
            refuses.
        """
        from . import get  # the registry imports the methods, which import this module

        if not isinstance(values, Mapping):
            raise TypeError(
                f"{values!r} is no description of a pruner: give a dict such as {{'method': 'evoprune', 'keep': 64}}"
            )
        if "method" not in values:
            raise ValueError(f"{dict(values)} names no method: add for example 'method': 'evoprune'")
        method = get(values["method"])
        known = [field.name for field in fields(method)]
        for key in values:
            if key != "method" and key not in known:
                raise ValueError(unknown(f"setting of {method.name}", key, known))
        if "keep" not in values:
            raise ValueError(f"{dict(values)} does not say how much to keep: add for example 'keep': 64")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        del settings["method"]
        return method(**settings)

    def _choice(self, field: str, options: Sequence[str]) -> None:
        if getattr(self, field) not in options:
            raise ValueError(unknown(field, getattr(self, field), options))

    def _number(self, field: str, low: float, high: float = math.inf, *, whole: bool = False) -> None:
        """Refuse what is no finite number in low..high; store a plain int or float, so that JSON can take
        it."""
        value, kind = getattr(self, field), "whole number" if whole else "number"
        try:
            plain = json.loads(json.dumps(int(value) if whole and int(value) == value else float(value)))
        except (TypeError, ValueError, OverflowError):
            plain = None
        if isinstance(value, bool | str) or plain is None or (whole and not isinstance(plain, int)):
            raise ValueError(f"{field}={value!r} is no {kind}: give one in {low:g}..{high:g}")
        if not (low <= plain <= high and math.isfinite(plain)):
            raise ValueError(f"{field}={value!r} is outside {low:g}..{high:g}: give a {kind} in that range")
        object.__setattr__(self, field, plain)


@dataclass(frozen=True)
class EncoderPruner(Pruner):
    """Merges tokens inside the vision encoder, after self-attention and before the MLP of chosen layers.

    Attributes
    ----------
    schedule
        How many pairs merge at which layer: a strategy of `schedules.allocate`, or the counts, one a layer.
    """

    stage: ClassVar[Stage] = "encoder"

    _: KW_ONLY
    schedule: str | tuple[int, ...] = "skip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.schedule, str):
            schedules.check_strategy(self.schedule)
        else:
            object.__setattr__(self, "schedule", schedules.check_counts(self.schedule))

    @property
    def needs(self) -> frozenset[str]:
        """What the adapter has to tap for `match`: a subset of ``{"importance", "keys"}``."""
        return NOTHING

    @property
    def order(self) -> Order:
        """Order of the survivors, for hidden states, positions and source maps alike: ``"raster"`` or
        ``"tome"``."""
        return "raster"

    @property
    def proportional_attention(self) -> bool:
        """Whether layers after the first merge add log(size) to the logits of the keys."""
        return False

    def merges(
        self, tokens: int, layers: int, *, keep: int | None = None, allowed: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """Return how many pairs each of `layers` layers merges; ValueError where that is impossible.

        `keep` tokens are left, or by default what `tokens_after` says; only the layers in `allowed` merge, all by
        default.
        """
        keep = self.tokens_after(tokens) if keep is None else keep
        return schedules.allocate(tokens, keep, layers, self.schedule, allowed=allowed)

    def selection_flops(
        self, tokens: int, merges: Sequence[int], width: int, prefix: int, unit: int = 1, head: int | None = None
    ) -> int:
        """Return the FLOPs that choosing the pairs adds for one image, by `flops.selection`; `head` is the width of the
        keys."""
        wants = "importance" in self.needs
        return flops.selection(tokens, merges, width, prefix=prefix, unit=unit, importance=wants)

    def match(self, view: LayerView, merges: int) -> Matching:
        """Choose `merges` pairs an image."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say which tokens to merge: define match(view, merges)"
        )

    def merge(self, tokens: Tensor, sizes: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
        """Merge (B, T, C) tokens and (B, T) sizes by `matching`."""
        return ops.merge(tokens, sizes, matching, order=self.order)


@dataclass(frozen=True)
class FeaturePruner(Pruner):
    """Selects among the features that leave the vision tower, before the projector unless it needs them
    projected."""

    stage: ClassVar[Stage] = "feature"

    @property
    def needs(self) -> frozenset[str]:
        """What the adapter has to show to `select`: a subset of ``{"importance", "projected", "keys", "cls",
        "relevance"}``."""
        return NOTHING

    def select(self, view: FeatureView, keep: int) -> Tensor:
        """Return (B, keep) int64: for each token that leaves, the unit that it is or, of several, stands at."""
        raise NotImplementedError(f"{type(self).__name__} does not say which tokens to keep: define select(view, keep)")

    def standing(self, view: FeatureView, chosen: Tensor) -> Tensor | None:
        """Return int64 (B, N), which of the tokens that leave holds each unit, -1 for none; None: only those
        chosen."""
        return None

    def combine(self, units: Tensor, view: FeatureView, chosen: Tensor) -> Tensor:
        """Return the tokens that leave, (B, keep, U), of `units` (B, N, U), whose U is that of several patches."""
        return rows(units, chosen)


@dataclass(frozen=True)
class InputPruner(Pruner):
    """Shows the encoder a smaller picture."""

    stage: ClassVar[Stage] = "input"

    def tokens_after(self, n: int) -> int:
        return self.grid(n) ** 2

    def grid(self, n: int) -> int:
        """Return the tokens a side of the smaller picture, of one that would be `n` tokens in the language model."""
        raise NotImplementedError(f"{type(self).__name__} does not say how small the picture gets: define grid(n)")


@dataclass(frozen=True)
class DecoderPruner(Pruner):
    """Drops visual tokens inside the language model, in the prefill; survivors keep their positions.

    `keep` counts the tokens that the last layer sees of each picture, tile or frame.
    """

    stage: ClassVar[Stage] = "decoder"
    inside: ClassVar[bool] = False  # tokens go between a layer's attention and its MLP, not behind the layer
    counted: ClassVar[bool] = True  # an int `keep` is a number of tokens of each picture, tile or frame

    @property
    def needs(self) -> frozenset[str]:
        """What the adapter has to show to `select`: a subset of ``{"attention", "sums", "hidden", "keys"}``."""
        return NOTHING

    def check_model(self, model: Identity) -> None:
        """Raise ValueError where the method was fitted on another model; by default every model will do."""
        return

    def leaves(self, tokens: int, layers: int) -> tuple[int, ...]:
        """Return how many of a block's `tokens` leave each of `layers` layers; never more than before.

        Raises
        ------
        ValueError
            The method does not fit a language model of so many layers, or cannot leave so few.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where tokens go: define leaves(tokens, layers)")

    def select(self, view: DecoderView, keep: int) -> Tensor:
        """Return (G, keep) int64, ascending: the tokens of each block that stay."""
        raise NotImplementedError(f"{type(self).__name__} does not say which tokens to keep: define select(view, keep)")
