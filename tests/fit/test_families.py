"""A fit on every family: its layers run again as its own forward runs them, and the recipe acts as it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune import FitPrune, apply
from evoprune.fit import fit
from evoprune.fit.replay import Replay
from evoprune.fit.statistics import Places
from evoprune.models import find
from evoprune.models.drop_layer import layers_of
from tests.families.case import Case
from tests.families.table import CASES, model_of

EVERY = pytest.mark.parametrize("case", [case for case in CASES if not case.options], ids=str)


def prompt(case: Case, number: int = 0) -> dict[str, Any]:
    return dict(case.inputs([("USER: ", case.pictures[number], " what is this ? ASSISTANT:")]))


@EVERY
@torch.no_grad()
def test_the_layers_run_as_in_the_model(case: Case) -> None:
    with model_of(case) as model:
        family = find(model)
        layers = layers_of(family.language_model)
        ends: list[torch.Tensor] = []
        hook = layers[-1].register_forward_hook(lambda m, args, out: ends.append(out[0] if type(out) is tuple else out))
        replay, inputs = Replay(layers, "cpu"), prompt(case)
        visual = inputs["input_ids"][0] == family.image_token_id
        with replay.installed():
            sample = replay.record(visual, lambda: family.base(**inputs, use_cache=False))
            none = [torch.zeros(size, dtype=torch.bool) for size in sample.places.sizes]
            counts = replay.run(sample, lambda layer, sums: none)
        family.base(**inputs, use_cache=False)
        hook.remove()
        assert counts == [sample.places.sizes] * len(layers) and sum(sample.places.sizes) == int(visual.sum())
        assert len(ends) == 3
        torch.testing.assert_close(ends[1], ends[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ends[2], ends[0], atol=0, rtol=0)


@EVERY
@torch.no_grad()
def test_a_recipe_is_fitted_and_applied(case: Case) -> None:
    with model_of(case) as model:
        inputs = prompt(case)
        before = model(**inputs).logits
        recipe = fit(model, [inputs, prompt(case, 1)], [0.2])[0]
        assert 0.2 <= recipe.removed < 0.2 + 1 / recipe.tokens
        with apply(model, FitPrune(recipe)) as handle:
            model(**inputs)
            blocks = Places(inputs["input_ids"][0] == find(model).image_token_id).sizes
            wanted = [FitPrune(recipe).leaves(size, recipe.layers) for size in blocks]
            assert [tuple(left) for left in handle.stats.decoder_tokens] == wanted
        assert torch.equal(model(**inputs).logits, before)
