"""FitPrune: inside every layer, drop the tokens that text and other visual tokens look at least, by a fitted recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops.selection import top
from ..recipe_files import read
from ..recipes import Identity, Recipe
from .base import DecoderPruner
from .views import DecoderView

Source = str | os.PathLike[str] | Mapping[str, Any] | Recipe


@dataclass(frozen=True)
class FitPrune(DecoderPruner):
    """Deletion by attention, as many at each layer as a recipe says that `evoprune fit` made (arXiv 2409.10197).

    ``FitPrune("recipe.json")`` takes the file's only recipe, ``FitPrune(0.25, recipe="recipes.json")`` the one of
    several that keeps most without more than `keep` on the mean. Tokens go between the attention of a layer and its
    MLP, so that they are keys and values in that layer for the last time.

    Attributes
    ----------
    keep
        The largest share of the visual tokens that may be left on the mean over the layers; 1.0 drops nothing. Tokens
        of each picture, tile or frame become the share that they are of the recipe's. In its place the recipe itself,
        whose own mean `keep` then is.
    recipe
        A file, what `json.load` gives of one, or a `Recipe`; then the recipe that was chosen, None if none was given.
    """

    name: ClassVar[str] = "fitprune"
    source: ClassVar[str] = "FitPrune, arXiv 2409.10197"
    summary: ClassVar[str] = "drops at each layer what text and picture attend to least, by a recipe of `evoprune fit`"
    inside: ClassVar[bool] = True
    counted: ClassVar[bool] = False

    keep: int | float | Source  # type: ignore[assignment]
    _: KW_ONLY
    recipe: Source | None = None

    def __post_init__(self) -> None:
        first, given = self.keep, self.recipe
        if isinstance(first, (os.PathLike, Mapping, Recipe)) or (isinstance(first, str) and not _is_number(first)):
            if given is not None:
                raise ValueError(f"two recipes are given, {_short(first)} and {_short(given)}: give one of them")
            chosen = _only(_recipes(first), first)
            object.__setattr__(self, "keep", chosen.mean)
            object.__setattr__(self, "recipe", chosen)
        super().__post_init__()
        if given is not None:
            if not isinstance(given, (str, os.PathLike, Mapping, Recipe)):
                raise ValueError(f"recipe={given!r} is no recipe: give a file that `evoprune fit` wrote")
            recipes = _recipes(given)
            object.__setattr__(self, "keep", _share(self.keep, recipes[0]))  # type: ignore[arg-type]
            object.__setattr__(self, "recipe", _choose(recipes, self.keep, given))  # type: ignore[arg-type]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["sums"])

    @property
    def fitted(self) -> Recipe:
        """The recipe in force.

        Raises
        ------
        ValueError
            None was given.
        """
        if not isinstance(self.recipe, Recipe):
            raise ValueError(
                f"FitPrune({self.keep}) has no recipe: make one for this model with `evoprune fit MODEL --reduce 0.5 "
                "-o recipe.json`, and give FitPrune('recipe.json')"
            )
        return self.recipe

    def check_model(self, model: Identity) -> None:
        """Raise ValueError where `model` (`evoprune.recipes.identify`) is not of the kind and sizes of the recipe's."""
        self.fitted.check_model(model)

    def leaves(self, tokens: int, layers: int) -> tuple[int, ...]:
        recipe = self.fitted
        if layers != recipe.layers:
            raise ValueError(
                f"the recipe is for {recipe.model.name or recipe.model.model_type} with layers={recipe.layers}, but "
                f"this model has layers={layers}: fit one for it with `evoprune fit`"
            )
        # Half up, in whole numbers; the recipe never rises, so neither does this.
        return tuple(max(1, (2 * tokens * left + recipe.tokens) // (2 * recipe.tokens)) for left in recipe.left)

    def tokens_after(self, n: int) -> int:
        return super().tokens_after(n) if self.recipe is None else self.leaves(n, self.fitted.layers)[-1]

    def select(self, view: DecoderView, keep: int) -> Tensor:
        if view.cross is None or view.within is None:
            raise ValueError("the decoder view has no sums of attention: tap what `FitPrune.needs` asks for")
        return ranked(view.cross, view.within)[:, :keep].sort(dim=1).values

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        return values | {"recipe": None if self.recipe is None else self.fitted.to_dict()}


@torch.no_grad()
def ranked(cross: Tensor, within: Tensor) -> Tensor:
    """Return int64 (G, n), the tokens by falling product of both sums, equal ones by rising index.

    Section 3.4 of arXiv 2409.10197, as the official code has it: inference goes by the product, the fit by the
    intersection of what both sums would spare.
    """
    return top(cross.float() * within.float(), cross.shape[1])


def _recipes(source: Source) -> tuple[Recipe, ...]:
    return (source,) if isinstance(source, Recipe) else read(source)


def _only(recipes: Sequence[Recipe], source: Source) -> Recipe:
    if len(recipes) > 1:
        raise ValueError(
            f"{_short(source)} holds {len(recipes)} recipes, which leave {_means(recipes)} of the tokens on the mean: "
            "say which with FitPrune(keep, recipe=...)"
        )
    return recipes[0]


def _share(keep: int | float, recipe: Recipe) -> float:
    if keep * recipe.items > recipe.tokens and isinstance(keep, int):
        raise ValueError(
            f"keep={keep} is above the {recipe.tokens / recipe.items:g} tokens of a picture, tile or frame in the fit: "
            "keep fewer, or use a share of at most 1.0"
        )
    return keep * recipe.items / recipe.tokens if isinstance(keep, int) else keep


def _choose(recipes: Sequence[Recipe], keep: float, source: Source) -> Recipe:
    """Return the recipe with the largest mean that `keep` allows; dropping nothing is always among them."""
    models = {(recipe.tokens, recipe.items, recipe.model) for recipe in recipes}
    if len(models) > 1:
        raise ValueError(f"{_short(source)} holds recipes for {len(models)} models: give a file for one of them")
    allowed = [one for one in (*recipes, recipes[0].unpruned()) if one.mean <= keep]
    if not allowed:
        raise ValueError(
            f"keep={keep:g} of {recipes[0].tokens} tokens is less than {_short(source)} can leave, which has recipes "
            f"for a mean of {_means(recipes)}: keep more, or make one with `evoprune fit --reduce`"
        )
    return max(allowed, key=lambda one: one.mean)


def _means(recipes: Sequence[Recipe]) -> str:
    means = [f"{recipe.mean:.3f}" for recipe in recipes]
    if len(means) > 8:
        means = [f"{max(means)} down to {min(means)} in {len(means)} steps"]
    return ", ".join(means)


def _is_number(text: str) -> bool:
    """Tell a number that came as text, which is refused as such, from the name of a file."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(source: Any) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "the recipe"


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official code deletes at inference, in one step of the fit, or in a whole fit."""
    # The fit runs models, which stand above the methods: it is imported only where somebody asks for it.
    from ..fit import conform

    if "attn" not in inputs:
        return conform.whole_fit(inputs, hyper_parameters)
    cross, within, text = conform.sums_of(inputs["attn"], hyper_parameters)
    if "weightsum_cross" in inputs:
        return conform.one_decision(inputs, cross / text, within, float(hyper_parameters["alpha"]))
    order, gone = ranked(cross, within)[0], int(hyper_parameters["delete"])
    start, kept = int(hyper_parameters["sys_length"]), order[: len(order) - gone].sort().values
    mask = torch.ones(inputs["attn"].shape[-1], dtype=torch.bool)
    mask[start : start + len(order)] = False
    mask[start + kept] = True
    return {"delete_order": order.flip(0)[:gone], "keep_mask": mask, "kept": kept}
