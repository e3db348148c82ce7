"""Whole tokens that meet a budget, and the search for the tolerance that does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.fit import fit
from evoprune.fit.landing import land
from evoprune.fit.search import Budget, bisect, nearest
from evoprune.recipes import visual_flops
from tests import builders
from tests.fit import literal

TEXTS = ["USER: <image> what is this ? ASSISTANT:", "<image> b", "how many dogs <image> are there ?"]


def removed(tokens: int, left: tuple[int, ...], width: int, mlp: int) -> float:
    return 1 - visual_flops(tokens, left, width, mlp) / visual_flops(tokens, (tokens,) * len(left), width, mlp)


def test_the_shape_model_of_cost() -> None:
    n, d, m = 7, 5, 11
    assert visual_flops(n, (n,), d, m) == 4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m
    first = 3 * n * d**2 + 2 * n**2 * d + 4 * d**2 + 3 * 4 * d * m
    second = 3 * 4 * d**2 + 2 * 4**2 * d + 2 * d**2 + 3 * 2 * d * m
    assert visual_flops(n, (4, 2), d, m) == first + second


@given(
    tokens=st.integers(100, 600), layers=st.integers(2, 32), width=st.sampled_from([16, 96, 4096]),
    shape=st.lists(st.floats(0.0, 1.0), min_size=32, max_size=32), reduce=st.floats(0.01, 0.99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_lands_within_one_hundredth(tokens: int, layers: int, width: int, shape: list[float], reduce: float) -> None:
    left = [tokens * share for share in sorted(shape[:layers], reverse=True)]
    most = removed(tokens, (1,) * layers, width, 2 * width)
    if reduce > most:
        with pytest.raises(ValueError, match=f"at most {most:.4f}"):
            land(tokens, left, reduce, width, 2 * width)
        return
    found = land(tokens, left, reduce, width, 2 * width)
    assert all(1 <= after <= before for before, after in pairwise((tokens, *found)))
    assert reduce <= removed(tokens, found, width, 2 * width) < reduce + 0.01


def test_mean_counts_that_fit_are_left_as_they_are() -> None:
    left = (150, 100, 100, 50)
    assert land(200, left, removed(200, left, 96, 192), 96, 192) == left


def test_layers_that_drop_nothing_join_in_last() -> None:
    assert land(100, (100, 100, 60, 40), 0.2, 32, 64)[:2] == (100, 100)
    assert land(100, (100, 100, 60, 40), 0.7, 32, 64)[1] < 100


def steps(alpha: float) -> np.ndarray:
    """Two prompts of 100 tokens, three layers: the larger the tolerance, the fewer are left."""
    share = 1 - alpha
    return np.array([[100 * share, 90 * share, 80 * share], [100 * share, 95 * share, 60 * share]]).astype(int)


def test_nearest_takes_away_what_was_asked_for() -> None:
    budget = Budget(np.array([100, 100]), 32, 64, 3)
    for reduce in (0.2, 0.35, 0.5, 0.7):
        found = nearest(steps, budget, reduce)
        assert reduce <= found.removed <= reduce + 0.03
        assert budget.stopped(found.alpha / 2, steps(found.alpha / 2), reduce).removed < reduce
    assert nearest(steps, budget, 0.999).alpha == 1.0


def test_the_official_search_is_coarse_and_may_end_on_a_miss() -> None:
    budget = Budget(np.array([100, 100]), 32, 64, 3)
    for reduce in (0.1, 0.4):
        visited = bisect(steps, budget, reduce)
        assert len(visited) == 7 and visited[0].alpha == 0.5
        for before, after in pairwise(visited):
            assert (after.alpha < before.alpha) == before.reached


@pytest.fixture(scope="module")
def fitted() -> list:
    model = literal.deep(layers=5)
    prompts = [builders.inputs([text], [seed]) for seed, text in enumerate(TEXTS)]
    return fit(model, prompts, [i / 100 for i in range(5, 85, 8)], name="tiny")


def test_a_model_meets_every_budget(fitted: list) -> None:
    for recipe in fitted:
        assert recipe.reduce <= recipe.removed < recipe.reduce + 0.01
        assert recipe.tokens == 64 and recipe.samples == 3 and recipe.items == 1 and not recipe.official
        assert recipe.model.layers == 5 and recipe.model.name == "tiny"


def test_more_to_take_away_never_leaves_more(fitted: list) -> None:
    for before, after in pairwise(fitted):
        assert after.removed > before.removed and after.mean < before.mean and after.alpha >= before.alpha


def test_the_same_wherever_prompts_wait() -> None:
    model, prompts = literal.deep(), [builders.inputs([text], [seed]) for seed, text in enumerate(TEXTS)]
    assert fit(model, prompts, [0.5]) == fit(model, prompts, [0.5], store="cpu") == fit(model, iter(prompts), [0.5])


def test_official_floors_and_misses() -> None:
    model, prompts = literal.deep(), [builders.inputs([text], [seed]) for seed, text in enumerate(TEXTS)]
    official = fit(model, prompts, [0.5], official=True)[0]
    assert official.official and official.alpha * 128 == int(official.alpha * 128)
    assert official.removed < 0.5 <= fit(model, prompts, [0.5])[0].removed


def test_prompts_that_differ_in_visual_tokens_count_by_share() -> None:
    model = literal.deep()
    prompts = [builders.inputs(["a <image> b"], [1]), builders.inputs(["a <image> b <image> c"], [1, 2])]
    assert fit(model, prompts, [0.4])[0].tokens == 64  # each picture by itself

    def shorter(inputs: dict) -> dict:
        columns = torch.cat((torch.arange(20), torch.arange(40, inputs["input_ids"].shape[1])))
        return {"input_ids": inputs["input_ids"][:, columns], "attention_mask": inputs["attention_mask"][:, columns]}

    # Without pixels, placeholders are words like others.
    mixed = [{k: v for k, v in prompts[0].items() if k != "pixel_values"}, shorter(prompts[0])]
    recipe = fit(model, mixed, [0.4])[0]
    assert recipe.tokens == 54 and 0.4 <= recipe.removed < 0.41
    with pytest.raises(ValueError, match="44 to 64"):
        fit(model, mixed, [0.4], official=True)


def test_what_a_fit_refuses() -> None:
    from evoprune.apply import apply
    from evoprune.pruners import Random

    model, prompts = literal.deep(), [builders.inputs(TEXTS[:1], [0])]
    for reductions, words in (([], "no share"), ([0.0], "0.0 is outside"), ([1.0], "outside"), (["0.5"], "'0.5'")):
        with pytest.raises(ValueError, match=words):
            fit(model, prompts, reductions)
    with pytest.raises(ValueError, match="no prompts to fit on"):
        fit(model, [], [0.5])
    with pytest.raises(ValueError, match="was given 2"):
        fit(model, [builders.inputs(TEXTS[:2], [0, 1])], [0.5])
    with pytest.raises(ValueError, match="holds no visual token"):
        fit(model, [builders.inputs(["what is a dog ?"], [])], [0.5])
    with pytest.raises(ValueError, match="cannot be met"):
        fit(model, prompts, [0.99])
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        fit(model.train(), prompts, [0.5])
    model.eval()
    with apply(model, Random(8)), pytest.raises(ValueError, match="call remove"):
        fit(model, prompts, [0.5])
