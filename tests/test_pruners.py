"""The methods as data: settings, counts, JSON, and what they choose."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from evoprune import ops, pruners
from evoprune.pruners import (
    DART,
    AdaptivePool,
    CDPruner,
    DivPrune,
    Downsample,
    EncoderPruner,
    EvoPrune,
    FasterVLM,
    FastV,
    FeatureView,
    FitPrune,
    IDPruner,
    KeepFirst,
    LayerView,
    Pruner,
    Random,
    ToMe,
    UniformGrid,
    VisionZip,
    VisPruner,
)
from evoprune.pruners.base import FeaturePruner, InputPruner
from evoprune.recipes import Identity, Recipe

SAMPLES = [
    EvoPrune(64),
    EvoPrune(0.25, schedule=(3, 0, 2), similarity="softmax", bandwidth=0.5, order="tome", attention=False),
    ToMe(64, schedule="decreasing:1.0", order="tome", proportional_attention=False),
    DivPrune(0.2, space="features"),
    FasterVLM(16),
    VisPruner(32, important_ratio=0.75, removed_per_round=4),
    VisionZip(64, contextual_ratio=0.2, cls=False),
    CDPruner(64, text_tower="openai/clip-vit-large-patch14-336", relevance_sign=1, theta=0.5),
    IDPruner(64, balance=0.7, parallel=4),
    FastV(16, layer=3),
    DART(32, layer=1, image_pivots=2, text_pivots=3, counts="official"),
    FitPrune(0.4, recipe=Recipe(64, (40, 11), Identity("llava", 32, 64, 2, "tiny", "abc"), reduce=0.4, items=2)),
    Random(8, seed=3, positions="original"),
    UniformGrid(0.5),
    AdaptivePool(10),
    KeepFirst(0.25, positions="original"),
    Downsample(50),
]


@pytest.mark.parametrize("method", list(pruners.METHODS.values()), ids=list(pruners.METHODS))
class TestEveryMethod:
    def test_is_documented(self, method):
        assert pruners.METHODS[method.name] is method is pruners.get(method.name)
        assert method.stage in ("input", "encoder", "feature", "decoder")
        assert method.source
        assert method.summary
        assert method.__doc__

    def test_is_frozen_and_hashable(self, method):
        assert hash(method(4)) == hash(method(4))
        with pytest.raises(dataclasses.FrozenInstanceError):
            method(4).keep = 5

    def test_round_trip(self, method):
        for keep in (4, 0.3):
            pruner = method(keep, positions="original")
            assert Pruner.from_dict(json.loads(json.dumps(pruner.to_dict()))) == pruner
        assert Pruner.from_dict({"method": method.name, "keep": 9}) == method(9)

    @pytest.mark.parametrize("keep", [0, -1, True, 0.0, 1.5, math.nan])
    def test_refuses_keep(self, method, keep):
        with pytest.raises(ValueError, match="keep="):
            method(keep)

    def test_counts(self, method):
        assert method(9).tokens_after(100) == 9
        assert method(1.0).tokens_after(100) == 100
        assert method(100).tokens_after(100) == 100
        with pytest.raises(ValueError, match=r"keep=101 is above the 100 tokens"):
            method(101).tokens_after(100)

    def test_refuses_text(self, method):
        with pytest.raises(TypeError, match="is no number"):
            method("64")
        with pytest.raises(ValueError, match="did you mean 'original'"):
            method(4, positions="orignal")


@pytest.mark.parametrize("pruner", SAMPLES, ids=str)
def test_json_keeps_every_setting(pruner):
    text = json.dumps(pruner.to_dict())
    assert Pruner.from_dict(json.loads(text)) == pruner
    assert set(json.loads(text)) == {"method", *(f.name for f in dataclasses.fields(pruner))}


def test_numpy_numbers_become_plain():
    pruner = EvoPrune(np.int64(64), critical_ratio=np.float64(0.3), neighbors=np.int64(3), schedule=np.array([1, 2]))
    assert pruner == EvoPrune(64, critical_ratio=0.3, neighbors=3, schedule=(1, 2))
    json.dumps(pruner.to_dict())
    assert EvoPrune(np.float64(0.5)) == EvoPrune(0.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keep": 4}, "names no method"),
        ({"method": "evoprun", "keep": 4}, "did you mean 'evoprune'"),
        ({"method": None, "keep": 4}, "unknown method None"),
        ({"method": "evoprune"}, "does not say how much to keep"),
        ({"method": "evoprune", "keep": 4, "neighbours": 3}, "did you mean 'neighbors'"),
        ({"method": "random", "keep": 4, "schedule": "skip"}, "unknown setting of random 'schedule'"),
    ],
)
def test_from_dict_refuses(values, words):
    with pytest.raises(ValueError) as raised:
        Pruner.from_dict(values)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"critical_ratio": 1.1}, "critical_ratio=1.1 is outside 0..1"),
        ({"critical_ratio": "a"}, "critical_ratio='a' is no number"),
        ({"critical_ratio": math.nan}, "critical_ratio=nan"),
        ({"neighbors": 0}, "neighbors=0 is outside 1"),
        ({"neighbors": 2.5}, "neighbors=2.5 is no whole number"),
        ({"neighbors": True}, "neighbors=True"),
        ({"diversity": -1}, "diversity=-1"),
        ({"diversity": math.inf}, "diversity=inf"),
        ({"bandwidth": 0}, "bandwidth=0"),
        ({"similarity": "cos"}, "did you mean 'cosine'"),
        ({"partition": "mergable"}, "did you mean 'mergeable'"),
        ({"order": "rastar"}, "did you mean 'raster'"),
        ({"weights": "sizes"}, "did you mean 'size'"),
        ({"features": "key"}, "did you mean 'keys'"),
        ({"attention": 1}, "attention=1"),
        ({"proportional_attention": "yes"}, "proportional_attention='yes'"),
        ({"schedule": "skipp"}, "did you mean 'skip'"),
        ({"schedule": "first:0"}, "first:0"),
    ],
)
def test_evoprune_refuses(settings, words):
    with pytest.raises(ValueError) as raised:
        EvoPrune(64, **settings)
    assert words in str(raised.value)


def test_schedules_that_fit_some_tower_are_accepted():
    for schedule in ("first:13", "last:40", "increasing:0.5", "skip:0", " Mean "):
        EvoPrune(64, schedule=schedule)
    with pytest.raises(ValueError, match=r"in 1\.\.26"):
        EvoPrune(64, schedule="last:40").merges(729, 26)


def test_merges():
    assert EvoPrune(64).merges(729, 26) == (0, 52, 0, 52, *(0, 51) * 11)
    assert sum(EvoPrune(0.25).merges(576, 23)) == 432
    assert EvoPrune(1.0).merges(576, 23) == (0,) * 23
    assert EvoPrune(10, schedule=(4, 2)).merges(16, 2) == (4, 2)
    with pytest.raises(ValueError, match="smallest reachable keep is 144"):
        EvoPrune(64, schedule="first:2").merges(576, 23)
    with pytest.raises(ValueError, match="above the 576 tokens"):
        EvoPrune(600).merges(576, 23)


def view(**change):
    torch.manual_seed(0)
    full = {"hidden": torch.randn(2, 20, 8), "sizes": torch.ones(2, 20), "importance": torch.rand(2, 20)}
    return LayerView(**full | {"keys": torch.randn(2, 20, 4)} | change)


def test_evoprune_is_a_thin_call_of_the_operators():
    shown = view(protected=torch.arange(20)[None].expand(2, 20) >= 18)
    settings = {
        "critical_ratio": 0.4,
        "neighbors": 3,
        "bandwidth": 0.9,
        "diversity": 2.0,
        "similarity": "sigmoid",
    }
    for partition in ("index", "mergeable"):
        pruner = EvoPrune(4, partition=partition, order="tome", weights="equal", **settings)
        found = pruner.match(shown, 5)
        wanted = ops.match(
            shown.hidden, shown.importance, 5, partition=partition, protected=shown.protected, **settings
        )
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        out = pruner.merge(shown.hidden, shown.sizes, found)
        wanted = ops.merge(shown.hidden, shown.sizes, found, weights="equal", order="tome")
        assert all(torch.equal(a, b) for a, b in zip(out, wanted, strict=True))


def test_needs_and_ablations():
    assert EvoPrune(4).needs == {"importance"}
    assert EvoPrune(4, features="keys").needs == {"importance", "keys"}
    assert EvoPrune(4, attention=False).needs == EvoPrune(4, critical_ratio=0).needs == frozenset()
    shown = view()
    plain = ops.match(shown.hidden, None, 5)
    for pruner in (EvoPrune(4, attention=False), EvoPrune(4, critical_ratio=0)):
        assert torch.equal(pruner.match(shown, 5).source, plain.source)
    keyed = EvoPrune(4, attention=False, features="keys").match(shown, 5)
    assert torch.equal(keyed.source, ops.match(shown.keys, None, 5).source)
    with pytest.raises(ValueError, match="no importance"):
        EvoPrune(4).match(view(importance=None), 5)
    with pytest.raises(ValueError, match="no keys"):
        EvoPrune(4, features="keys").match(view(keys=None), 5)


def test_defaults_of_the_stages():
    encoder, feature, smaller = EncoderPruner(4), FeaturePruner(4), InputPruner(4)
    assert (encoder.order, encoder.proportional_attention, encoder.needs) == ("raster", False, frozenset())
    assert (EvoPrune(4).order, EvoPrune(4).proportional_attention) == ("raster", False)
    assert feature.needs == frozenset()
    for call in (
        lambda: encoder.match(view(), 1),
        lambda: feature.select(FeatureView(torch.rand(1, 4, 2)), 2),
        lambda: smaller.grid(4),
    ):
        with pytest.raises(NotImplementedError, match="define"):
            call()


def test_random():
    features = torch.zeros(3, 100, 2)
    kept = Random(10, seed=1).select(FeatureView(features), 10)
    assert kept.shape == (3, 10)
    assert kept.dtype == torch.int64
    assert (kept == kept[:1]).all()
    assert (kept.diff(dim=-1) > 0).all()
    assert torch.equal(kept[:1], Random(10, seed=1).select(FeatureView(features[:1]), 10))
    assert not torch.equal(kept, Random(10, seed=2).select(FeatureView(features), 10))
    hits = torch.zeros(100)
    for seed in range(2000):
        hits[Random(25, seed=seed).select(FeatureView(features[:1]), 25)[0]] += 1
    assert hits.min() > 400  # 500 expected, standard deviation 19
    assert hits.max() < 600
    with pytest.raises(ValueError, match="seed=-1"):
        Random(4, seed=-1)


def test_grid():
    for length, keep in ((576, 64), (729, 64), (100, 100), (100, 99), (7, 1), (10, 3)):
        kept = UniformGrid(keep).select(FeatureView(torch.zeros(2, length, 1)), keep)
        assert kept.tolist() == [[math.floor((i + 0.5) * length / keep) for i in range(keep)]] * 2
        assert len(set(kept[0].tolist())) == keep


def test_downsample():
    assert (Downsample(64).grid(576), Downsample(64).tokens_after(576)) == (8, 64)
    assert (Downsample(50).grid(576), Downsample(50).tokens_after(576)) == (7, 49)
    assert (Downsample(1.0).grid(729), Downsample(0.25).grid(576)) == (27, 12)
    assert Downsample(1).grid(576) == 1


@pytest.mark.parametrize("values", [None, 5, "evoprune", ["evoprune"]])
def test_what_is_no_description_of_a_pruner(values):
    with pytest.raises(TypeError, match="is no description of a pruner: give a dict such as"):
        Pruner.from_dict(values)


@pytest.mark.parametrize("schedule", [{}, b"x", {1: 2}])
def test_a_schedule_is_a_name_or_a_sequence(schedule):
    with pytest.raises(TypeError, match="is neither a name nor a sequence of ints"):
        EvoPrune(5, schedule=schedule)
