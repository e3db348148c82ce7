"""FasterVLM and VisPruner: what they choose, against loops, and which attention of a tower they see."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune import EvoPrune, FasterVLM, VisPruner, apply
from evoprune.ops.selection import top
from evoprune.pruners import FeatureView
from evoprune.pruners.vispruner import important_and_diverse
from tests import builders
from tests.families.table import CASES


def literal(tokens: list[list[float]], scores: list[float], keep: int, ratio: float, removed: int) -> Any:
    """Return the important tokens and the diverse ones by loops over float64, and the smallest gap between choices."""

    def cosine(x: list[float], y: list[float]) -> float:
        length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
        return sum(p * q for p, q in zip(x, y, strict=True)) / length if length else 0.0

    order = sorted(range(len(tokens)), key=lambda i: (-scores[i], i))
    first = int(keep * ratio)
    rest, gap = order[first:], math.inf
    if first == keep:
        return order[:first], [], gap
    while len(rest) > keep - first:
        a, b = rest[0::2], rest[1::2]
        closest = {i: max(cosine(tokens[i], tokens[j]) for j in b) for i in a}
        ranked = sorted(a, key=lambda i: -closest[i])
        values = [closest[i] for i in ranked]
        gap = min([gap, *(x - y for x, y in pairwise(values))])
        rest = ranked[min(removed, len(rest) - (keep - first), len(a)) :] + b
    return order[:first], rest, gap


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0, 1), st.integers(1, 9), st.data())
def test_equals_loops_also_where_the_official_code_fails(
    seed: int, length: int, ratio: float, removed: int, data: st.DataObject
) -> None:
    """Odd lists, few diverse tokens, more to take out than there are."""
    keep = data.draw(st.integers(1, length))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, length, 6, generator=generator)
    scores = torch.rand(2, length, generator=generator)
    important, diverse = important_and_diverse(features, scores, keep, ratio, removed)
    for n in range(2):
        wanted = literal(features[n].double().tolist(), scores[n].tolist(), keep, ratio, removed)
        found = important[n].tolist(), diverse[n].tolist()
        assert len(set(found[0] + found[1])) == keep
        assert found[0] == wanted[0]
        if wanted[2] > 1e-5:  # no ties of the similarities: everything follows
            assert found[1] == wanted[1]
        alone = important_and_diverse(features[n : n + 1], scores[n : n + 1], keep, ratio, removed)
        if wanted[2] > 1e-5:
            assert torch.equal(alone[1][0], diverse[n])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_duplicates_ties_and_zeros(dtype: torch.dtype) -> None:
    same, zero = torch.ones(2, 30, 4, dtype=dtype), torch.zeros(2, 30, 4, dtype=dtype)
    scores = torch.ones(2, 30)
    for features in (same, zero):
        for keep in (1, 2, 9, 30):
            view = FeatureView(features, scores)
            kept = VisPruner(keep).select(view, keep)
            assert kept.shape == (2, keep) and bool((kept.diff(dim=1) > 0).all())
            assert FasterVLM(keep).select(view, keep).tolist() == [list(range(keep))] * 2


@pytest.mark.parametrize("tokens", [576, 729, 169])
@pytest.mark.parametrize("keep", [58, 8, 16, 32, 64, 128])
def test_budgets_at_which_the_official_code_raises(tokens: int, keep: int) -> None:
    torch.manual_seed(0)
    kept = VisPruner(keep).select(FeatureView(torch.randn(1, tokens, 8), torch.rand(1, tokens)), keep)
    assert len(set(kept[0].tolist())) == keep


def test_only_important_ones_are_fastervlm() -> None:
    torch.manual_seed(1)
    view = FeatureView(torch.randn(3, 50, 8), torch.rand(3, 50))
    assert torch.equal(VisPruner(9, important_ratio=1.0).select(view, 9), FasterVLM(9).select(view, 9))
    assert torch.equal(FasterVLM(9).select(view, 9), top(view.importance, 9).sort(dim=1).values)


def test_settings_and_what_is_missing() -> None:
    assert FasterVLM(4).needs == VisPruner(4).needs == {"importance"}
    for pruner in (FasterVLM(4), VisPruner(4)):
        with pytest.raises(ValueError, match="has no importance"):
            pruner.select(FeatureView(torch.rand(1, 9, 2)), 4)
    with pytest.raises(ValueError, match=r"important_ratio=1\.5 is outside 0\.\.1"):
        VisPruner(4, important_ratio=1.5)
    with pytest.raises(ValueError, match="removed_per_round=0"):
        VisPruner(4, removed_per_round=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_the_attention_of_cls_in_the_layer_of_the_features(attention: str) -> None:
    pixels = builders.inputs(["<image> <image>"], [0, 1])["pixel_values"]
    reference = builders.model(attention="eager").model.vision_tower(pixels, output_attentions=True)
    score = reference.attentions[-2][:, :, 0, 1:].mean(1)
    hidden = builders.model(attention="eager").model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    model = builders.model(attention=attention)
    with apply(model, FasterVLM(16)) as handle:
        model.model.get_image_features(pixels)
        assert torch.equal(handle.stats.positions, top(score, 16).sort(dim=1).values)
    with apply(model, VisPruner(16)) as handle:
        model.model.get_image_features(pixels)
        wanted = torch.cat(important_and_diverse(hidden[:, 1:], score, 16, 0.5, 8), dim=1).sort(dim=1).values
        assert torch.equal(handle.stats.positions, wanted)


@torch.no_grad()
def test_towers_without_cls_use_the_attention_received() -> None:
    case = next(case for case in CASES if case.family == "LLaVA-OneVision")
    x = case.inputs([("a ", case.pictures[0], " b")])
    native = case.model()
    native.set_attn_implementation("eager")
    tower = native.model.vision_tower
    pixels = x["pixel_values"].flatten(0, 1)
    layer = native.config.vision_feature_layer
    attentions = tower(pixels, output_attentions=True, output_hidden_states=True).attentions
    # Hidden states have the embeddings in front: state l leaves block l - 1.
    score = attentions[layer % (len(attentions) + 1) - 1].mean((1, 2))
    model = case.model()
    with apply(model, FasterVLM(0.2)) as handle:
        model(**x)
        places = handle.stats.positions
    assert torch.equal(torch.stack(list(places)), top(score, places.shape[1]).sort(dim=1).values[: len(places)])


@torch.no_grad()
def test_behind_a_pruner_of_the_encoder() -> None:
    """What merged before shows the attention that its own layer gives it: counts and places stay those of the plan."""
    model, x = builders.model(), builders.inputs(["<image> what"], [3])
    for pruner in (FasterVLM(8), VisPruner(8)):
        with apply(model, [EvoPrune(32), pruner]) as handle:
            model(**x)
            assert handle.stats.visual_tokens == (8,) and handle.stats.positions.shape == (1, 8)
