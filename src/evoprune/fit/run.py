"""A whole fit: prompts through the model once, then through its layers with one tolerance after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from ..apply import APPLIED
from ..models import Family, find, unwrap
from ..models.drop_layer import layers_of
from ..recipes import Identity, Recipe, identify
from .decide import decide
from .landing import check_reachable, land
from .replay import Replay, Sample
from .search import Budget, Found, bisect, nearest

Advance = Callable[[str, int, int], None]  # what is done, how often so far, how often in all (0: nobody knows)


def fit(
    model: nn.Module,
    prompts: Iterable[Mapping[str, Any]],
    reductions: Sequence[float],
    *,
    official: bool = False,
    store: torch.device | str | None = None,
    name: str = "",
    manifest: Mapping[str, Any] | None = None,
    advance: Advance = lambda what, done, total: None,
) -> list[Recipe]:
    """Return one recipe of FitPrune for each of `reductions`, shares of the visual tokens' FLOPs to take away.

    Parameters
    ----------
    model
        Of a supported family, without a pruner applied.
    prompts
        What the model's processor makes of one prompt each, on the model's device: taken one at a time.
    official
        Search as the official code does: a coarser tolerance, the last one visited whether it meets the budget or not,
        mean deletions rounded down.
    store
        Where the recorded prompts wait, the model's device by default; ``"cpu"`` saves memory on a GPU.
    name, manifest
        Written into the recipes.
    advance
        Told of progress.

    Returns
    -------
    list of Recipe
        By default each takes away at least what was asked for, and less than 0.01 more wherever whole tokens can. Where
        the prompts' visual tokens differ in number, shares count: `tokens` is then their mean.

    Raises
    ------
    UnsupportedModel
        No family knows the model, or its language model has no layers that can be hooked.
    ValueError
        A model in training mode or with a pruner applied, no prompts, prompts without visual tokens or of several rows,
        a share outside 0..1 or that cannot be reached, or an official fit of prompts whose visual tokens differ in
        number.

    Notes
    -----
    arXiv 2409.10197, section 3.3. What a layer drops does not depend on the budget, so that one run with a tolerance
    serves all of them.
    """
    model = unwrap(model)
    family = find(model)
    if APPLIED in family.base.__dict__:
        raise ValueError("this model has a pruner applied: call remove() on its handle, then fit")
    if family.base.training:
        raise ValueError("this model is in training mode, in which dropout would blur the sums: call model.eval()")
    _check(reductions)
    tokens = [token for modality in family.modalities if (token := family.token_id(modality)) is not None]
    identity = identify(model.config, name)
    replay = Replay(layers_of(family.language_model), store)
    with replay.installed():
        samples: list[Sample] = []
        items: list[int] = []
        for inputs in prompts:
            ids = inputs["input_ids"]
            if ids.shape[0] != 1:
                raise ValueError(f"the fit takes one prompt at a time, but was given {ids.shape[0]}: give single ones")
            samples.append(_recorded(replay, family.base, inputs, torch.isin(ids[0], ids.new_tensor(tokens))))
            items.append(_items(family, inputs))
            advance("Reading prompts", len(samples), 0)
        return search(
            replay, samples, identity, reductions, official=official, items=sum(items), manifest=manifest or {},
            advance=advance,
        )  # fmt: skip


def search(
    replay: Replay,
    samples: Sequence[Sample],
    model: Identity,
    reductions: Sequence[float],
    *,
    official: bool = False,
    items: int = 0,
    manifest: Mapping[str, Any] | None = None,
    advance: Advance = lambda what, done, total: None,
) -> list[Recipe]:
    """Return the recipes for recorded prompts, while `replay` is installed; see `fit`."""
    if not samples:
        raise ValueError("there are no prompts to fit on: give at least one")
    units = [size for sample in samples for size in sample.places.sizes]
    if official and len(set(units)) > 1:
        raise ValueError(
            f"the official fit counts tokens, but its prompts have {min(units)} to {max(units)}: fit without official"
        )
    budget = Budget(np.array(units), model.hidden_size, model.intermediate_size, model.layers)
    counts = runs(replay, samples, advance)
    whole = round(float(np.mean(units)))
    for reduce in reductions:  # before hours of work, not after
        check_reachable(whole, model.layers, reduce, model.hidden_size, model.intermediate_size)
    recipes = []
    for reduce in reductions:
        found = bisect(counts, budget, reduce)[-1] if official else nearest(counts, budget, reduce)
        if official:
            left = tuple((whole - scheme(found, budget).cumsum()).tolist())
        else:
            left = _landed(found, budget, whole, reduce)
        recipes.append(
            Recipe(
                whole, left, model, reduce=float(reduce), alpha=found.alpha, items=max(1, round(items / len(units))),
                samples=len(samples), official=official,
                manifest=manifest or {},
            )
        )  # fmt: skip
    return recipes


def runs(
    replay: Replay, samples: Sequence[Sample], advance: Advance = lambda what, done, total: None
) -> Callable[[float], np.ndarray]:
    """Return the function that runs all prompts with a tolerance; it remembers what it has run."""

    @cache
    def counts(alpha: float) -> np.ndarray:
        rows = []
        for number, sample in enumerate(samples, 1):
            left = replay.run(
                sample,
                lambda layer, sums, sample=sample: [  # type: ignore[misc]
                    decide(cross, within, both, alpha)
                    for (cross, within), both in zip(sums, sample.totals[layer], strict=True)
                ],
            )
            rows.append(np.array(left).T)
            advance(f"Tolerance {alpha:.4g}", number, len(samples))
        return np.concatenate(rows)

    return counts


def scheme(found: Found, budget: Budget) -> np.ndarray:
    """Return int64 (layers,), how many tokens go at each layer: the mean rounded down, as the official code does."""
    before = np.concatenate((budget.tokens[:, None], found.left[:, :-1]), axis=1)
    return (before - found.left).sum(0) // len(before)


def _landed(found: Found, budget: Budget, whole: int, reduce: float) -> tuple[int, ...]:
    shares = (found.left / budget.tokens[:, None]).mean(0)
    return land(whole, (whole * shares).tolist(), reduce, budget.width, budget.mlp)


def _items(family: Family, inputs: Mapping[str, Any]) -> int:
    """Return how many pictures, tiles and frames a prompt holds."""
    segments = [family.segments(inputs, modality, ()) or [] for modality in family.modalities]
    return sum(segment.items for one in segments for segment in one)


def _recorded(replay: Replay, base: Any, inputs: Mapping[str, Any], visual: torch.Tensor) -> Sample:
    given = {k: v.to(base.dtype) if torch.is_floating_point(v) else v for k, v in inputs.items()}
    return replay.record(visual, lambda: base(**given, use_cache=False))


def _check(reductions: Sequence[float]) -> None:
    if not reductions:
        raise ValueError("no share to take away is given: give for example reductions=[0.5]")
    for reduce in reductions:
        if not isinstance(reduce, (int, float)) or isinstance(reduce, bool) or not 0.0 < reduce < 1.0:
            raise ValueError(
                f"reduce={reduce!r} is outside 0..1: give the share of the FLOPs to take away, such as 0.5"
            )
