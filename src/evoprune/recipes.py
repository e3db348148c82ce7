"""Recipes: how many visual tokens leave each layer of a language model, found once by `evoprune fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .errors import unknown
from .identity import FIT, Identity, identify, whole

__all__ = ["FIT", "Identity", "Recipe", "entering", "identify", "leaving", "visual_flops"]

SLACK = 1e-4  # by which the share that a file tells may differ from that of its counts


def visual_flops(tokens: int, left: Sequence[int], width: int, mlp: int) -> int:
    """Return what `tokens` visual tokens cost in a decoder whose l-th layer `left[l]` of them leave.

    In multiply-adds, for n that enter and m that leave: ``3nd^2 + 2n^2d`` (queries, keys, values and the attention),
    then ``md^2 + 3mdM`` (its output and the MLP); without pruning ``4nd^2 + 2n^2d + 3ndM`` a layer.

    Notes
    -----
    The shape model of FitPrune (arXiv 2409.10197): of the visual tokens alone, all heads with keys of their own, an
    MLP of three matrices.
    """
    total, n = 0, tokens
    for after in left:
        total += entering(n, width) + leaving(after, width, mlp)
        n = after
    return total


def entering(tokens: Any, width: int) -> Any:
    """Return what `tokens` visual tokens cost up to where a layer drops some of them, in multiply-adds.

    `tokens` is an int or an array of them, and so is the result.
    """
    return 3 * tokens * width**2 + 2 * tokens**2 * width


def leaving(tokens: Any, width: int, mlp: int) -> Any:
    """Return what `tokens` visual tokens cost behind that place, in multiply-adds; int or array."""
    return tokens * width**2 + 3 * tokens * width * mlp


@dataclass(frozen=True)
class Recipe:
    """How many visual tokens leave each layer of one model; hashable, comparable, and JSON by `to_dict`.

    Attributes
    ----------
    tokens
        Visual tokens N of a picture (or video) in the fit; of other pictures the same shares are left.
    left
        Tokens that leave each layer: never more than before, at least 1.
    model
        What it was fitted on; `check_model` compares.
    reduce
        Share of the visual tokens' FLOPs that the fit was asked to take away, None where nobody asked.
    alpha
        The tolerance that the search ended with: how much of the attention's sums each layer may lose.
    items
        Pictures, tiles or frames that these tokens come from: an int `keep` counts for one of them.
    samples
        Prompts that the fit looked at.
    official
        Whether it was searched as the official code does, which misses the share asked for.
    manifest
        What it was made with: versions, device, seed, commit. Not compared.
    """

    tokens: int
    left: tuple[int, ...]
    model: Identity
    reduce: float | None = None
    alpha: float | None = None
    items: int = 1
    samples: int = 0
    official: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.model, Mapping):
            object.__setattr__(self, "model", Identity(**_known("model", self.model, Identity)))
        if not isinstance(self.model, Identity):
            raise ValueError(f"model={self.model!r} does not tell which model the recipe is for: {FIT}")
        if not isinstance(self.manifest, Mapping) or not isinstance(self.official, bool):
            raise ValueError(f"manifest is a JSON object and official true or false, these are not: {FIT}")
        object.__setattr__(self, "tokens", whole("tokens", self.tokens, 1))
        object.__setattr__(self, "items", whole("items", self.items, 1))
        if self.items > self.tokens:
            raise ValueError(f"items={self.items} is above the {self.tokens} tokens that they have: {FIT}")
        object.__setattr__(self, "samples", whole("samples", self.samples, 0))
        for name in ("reduce", "alpha"):
            object.__setattr__(self, name, _share(name, getattr(self, name)))
        self._check_left()

    def _check_left(self) -> None:
        if isinstance(self.left, str | bytes | Mapping) or not isinstance(self.left, Sequence):
            raise ValueError(f"left={self.left!r} is no list of counts, one a layer: {FIT}")
        if len(self.left) != self.model.layers:
            raise ValueError(f"left has {len(self.left)} counts, but the model has {self.model.layers} layers: {FIT}")
        before, counts = self.tokens, []
        for layer, value in enumerate(self.left):
            counts.append(whole(f"left[{layer}]", value, 1))
            if counts[-1] > before:
                seen = f"the {before} tokens that enter the layer"
                raise ValueError(f"left[{layer}]={value} is above {seen}, and tokens never come back: {FIT}")
            before = counts[-1]
        object.__setattr__(self, "left", tuple(counts))

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return len(self.left)

    @property
    def mean(self) -> float:
        """Mean share of the visual tokens over the layers that they leave."""
        return sum(self.left) / (self.tokens * self.layers)

    @property
    def removed(self) -> float:
        """Share of the visual tokens' FLOPs that it takes away, by `visual_flops`."""
        sizes = self.model.hidden_size, self.model.intermediate_size
        full = visual_flops(self.tokens, (self.tokens,) * self.layers, *sizes)
        return 1.0 - visual_flops(self.tokens, self.left, *sizes) / full

    def unpruned(self) -> Recipe:
        """Return the recipe for the same model that drops nothing."""
        left = (self.tokens,) * self.layers
        return replace(self, left=left, reduce=0.0, alpha=0.0, official=False)

    def check_model(self, model: Identity) -> None:
        """Raise ValueError where `model` is of another kind, depth or width than that of the fit.

        Other weights of the same sizes will do: fine-tuned models share a recipe.
        """
        for name in ("layers", "hidden_size", "intermediate_size", "model_type"):
            here, wanted = getattr(model, name), getattr(self.model, name)
            if here != wanted:
                raise ValueError(
                    f"the recipe is for {self.model.name or self.model.model_type} with {name}={wanted}, but this "
                    f"model has {name}={here}: fit one for it with `evoprune fit`"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain JSON values, and what follows from them for a reader: `mean` and `removed`."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        made = {"left": list(self.left), "model": asdict(self.model), "manifest": dict(self.manifest)}
        return {**values, **made, "mean": self.mean, "removed": self.removed}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Recipe:
        """Build the recipe that `to_dict` wrote.

        Raises
        ------
        ValueError
            A field that is unknown, missing, of the wrong kind or impossible; shares that contradict the counts.
        """
        told = {name: values[name] for name in ("mean", "removed") if name in values}
        recipe = Recipe(**_known("recipe", {k: v for k, v in values.items() if k not in told}, Recipe))
        for name, value in told.items():
            share = _share(name, value)
            if share is None or abs(share - getattr(recipe, name)) > SLACK:
                found = f"the counts in left give {getattr(recipe, name):.6f}"
                raise ValueError(f"{name}={value!r} was changed, or left was, as {found}: {FIT}")
        return recipe


def _known(what: str, values: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    known = [one.name for one in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(unknown(f"field of a {what}", key, known))
    needed = ("tokens", "left", "model") if kind is Recipe else known[:4]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"the {what} does not tell {' and '.join(missing)}: {FIT}")
    return dict(values)


def _share(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:  # NaN too is refused
        raise ValueError(f"{name}={value!r} is no share in 0..1: {FIT}")
    return float(value)
