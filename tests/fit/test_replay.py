"""The streamed statistics and decisions of a fit against float64 loops over whole attention matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune.apply import apply
from evoprune.fit.decide import decide
from evoprune.fit.replay import Replay
from evoprune.fit.statistics import Places
from evoprune.models.drop_layer import layers_of
from evoprune.pruners import FitPrune
from evoprune.recipes import Recipe, identify
from tests import builders
from tests.fit import literal

TEXT = "USER: <image> what is this ? ASSISTANT:"
ALPHA = 0.25


def recorded(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[Replay, Any]:
    replay = Replay(layers_of(model.model.language_model))
    visual = inputs["input_ids"][0] == builders.IMAGE_TOKEN
    with replay.installed():
        return replay, replay.record(visual, lambda: model.model(**inputs, use_cache=False))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_totals_and_decisions_are_the_literal_ones(attention: str) -> None:
    model, inputs = literal.deep(attention=attention), builders.inputs([TEXT], [1])
    visual = (inputs["input_ids"][0] == builders.IMAGE_TOKEN).nonzero()[:, 0].tolist()
    hidden = literal.embeddings(model, inputs)
    _, _, whole = literal.run(model, hidden, visual, lambda layer, cross, within: set())
    replay, sample = recorded(model, inputs)
    wanted = torch.tensor([(sum(cross), sum(within)) for cross, within, _ in whole], dtype=torch.float64)
    found = torch.tensor([both[0] for both in sample.totals], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def drop(layer: int, cross: list[float], within: list[float]) -> set[int]:
        both = [(sum(c), sum(w)) for c, w, _ in whole][layer]
        return literal.spared(cross, both[0], ALPHA) & literal.spared(within, both[1], ALPHA)

    _, _, pruned = literal.run(model, hidden, visual, drop)
    seen = []

    def choose(layer: int, sums: Any) -> list[torch.Tensor]:
        seen.append(sums[0])
        return [decide(*sums[0], sample.totals[layer][0], ALPHA)]

    with replay.installed():
        counts = replay.run(sample, choose)
    assert [one[0] for one in counts] == [left for _, _, left in pruned]
    assert counts[-1][0] < 64
    for (cross, within), (wanted_cross, wanted_within, _) in zip(seen, pruned, strict=True):
        torch.testing.assert_close(cross.double(), torch.tensor(wanted_cross).double(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(within.double(), torch.tensor(wanted_within).double(), rtol=1e-3, atol=1e-5)


def test_a_model_with_a_recipe_is_the_literal_model() -> None:
    """What `apply` runs: at each layer those with the smallest product go, and the logits are those of what is left."""
    model, inputs = literal.deep(), builders.inputs([TEXT], [2])
    visual = (inputs["input_ids"][0] == builders.IMAGE_TOKEN).nonzero()[:, 0].tolist()
    recipe = Recipe(64, (50, 50, 20, 7), identify(model.config))

    def drop(layer: int, cross: list[float], within: list[float]) -> set[int]:
        order = sorted(range(len(cross)), key=lambda i: (-cross[i] * within[i], i))
        return set(order[recipe.left[layer] :])

    wanted, columns, _ = literal.run(model, literal.embeddings(model, inputs), visual, drop)
    before = model(**inputs).logits
    with torch.no_grad(), apply(model, FitPrune(recipe)):
        found = model(**inputs).logits
    assert len(columns) == inputs["input_ids"].shape[1] - 64 + 7
    torch.testing.assert_close(found[0, columns].double(), wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("keep", [0.5, 0.125])
def test_the_embedded_model_with_its_recipes_is_the_literal_model(keep: float) -> None:
    from evoprune import tiny
    from evoprune.commands.loading import defaults
    from evoprune.tiny.benchmark import examples, picture, prompt

    model, processor = tiny.load()
    asked = examples("dev", 1)[0]
    text, image = prompt(processor, asked.question), picture("dev", asked.scene).image()
    inputs = processor(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False)
    pruner = FitPrune(keep, recipe=defaults("tiny")["recipe"])
    left = pruner.leaves(196, 4)

    def drop(layer: int, cross: list[float], within: list[float]) -> set[int]:
        order = sorted(range(len(cross)), key=lambda i: (-cross[i] * within[i], i))
        return set(order[left[layer] :])

    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0].tolist()
    wanted, columns, found = literal.run(model, literal.embeddings(model, dict(inputs)), visual, drop)
    assert tuple(after for _, _, after in found) == left
    with torch.no_grad(), apply(model, pruner) as handle:
        logits = model(**inputs).logits
    assert handle.stats.decoder_tokens == (left,)
    torch.testing.assert_close(logits[0, columns].double(), wanted, rtol=1e-3, atol=1e-3)


def test_running_without_deletions_is_the_model_itself() -> None:
    model, inputs = literal.deep(), builders.inputs(["a <image> b <image> what"], [1, 2])
    replay, sample = recorded(model, inputs)
    assert sample.places.sizes == [64, 64]
    ends: list[torch.Tensor] = []
    hook = model.model.language_model.layers[-1].register_forward_hook(lambda m, a, out: ends.append(out))
    with torch.no_grad():
        model(**inputs)
    with replay.installed():
        counts = replay.run(sample, lambda layer, sums: [torch.zeros(64, dtype=torch.bool)] * 2)
    hook.remove()
    assert counts == [[64, 64]] * 4
    torch.testing.assert_close(ends[1], ends[0])


def test_what_the_model_adds_between_layers_is_added_again() -> None:
    """As the deep features of Qwen3-VL, to the tokens that are left."""
    model, inputs = literal.deep(), builders.inputs([TEXT], [1])
    layers, width = model.model.language_model.layers, inputs["input_ids"].shape[1]
    extra = torch.randn(1, width, 32, generator=torch.Generator().manual_seed(3))
    replay = Replay(layers)
    visual, entered = inputs["input_ids"][0] == builders.IMAGE_TOKEN, []

    def add(module: Any, args: Any, kwargs: Any) -> Any:
        return (args[0] + extra, *args[1:]), kwargs

    with replay.installed():
        late = layers[2].register_forward_pre_hook(add, with_kwargs=True)
        sample = replay.record(visual, lambda: model.model(**inputs, use_cache=False))
        late.remove()
        assert [added is not None for added in sample.added] == [False, True, False, False]
        torch.testing.assert_close(sample.added[1], extra, rtol=1e-4, atol=1e-4)
        gone = torch.arange(64) % 2 == 0
        left = []
        looks = [
            layers[1].register_forward_hook(lambda m, a, out: left.append(out)),
            layers[2].register_forward_pre_hook(lambda m, a: entered.append(a[0])),
        ]
        counts = replay.run(sample, lambda layer, sums: [gone if layer == 1 else torch.zeros_like(sums[0][0]).bool()])
    for look in looks:
        look.remove()
    assert counts == [[64], [32], [32], [32]]
    columns = torch.tensor([i for i in range(width) if not visual[i] or (i - int(visual.nonzero()[0])) % 2])
    torch.testing.assert_close(entered[0] - left[0], extra[:, columns], rtol=1e-4, atol=1e-4)


def test_hooks_are_gone_afterwards() -> None:
    model, inputs = literal.deep(), builders.inputs([TEXT], [1])

    def hooks() -> list[int]:
        modules = list(model.model.language_model.layers.modules())
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) + ("_evoprune_tap" in m.__dict__) for m in modules]

    with torch.no_grad():
        before, logits = hooks(), model(**inputs).logits
        recorded(model, inputs)
        assert hooks() == before
        assert torch.equal(model(**inputs).logits, logits)


def test_places() -> None:
    places = Places(torch.tensor([False, True, True, False, True, False, False]))
    assert places.sizes == [2, 1]
    assert places.behind == [3, 2]
    weights = places.weights(torch.tensor([0, 2, 3, 4, 6]))
    assert weights.tolist() == [[[1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]]
    with pytest.raises(ValueError, match="holds no visual token"):
        Places(torch.zeros(3, dtype=torch.bool))
