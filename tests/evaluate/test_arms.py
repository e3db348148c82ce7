"""Which arms a comparison has, and what tells them apart."""

from __future__ import annotations

import json
import re

import pytest

from evoprune.evaluate.arms import SEEDS, Arm, arms
from evoprune.pruners import METHODS


def test_sanity_baselines_stand_beside_every_method():
    found = arms(["evoprune"], [64, 0.25], video=True)
    for keep in (64, 0.25):
        here = [(arm.method, arm.seed) for arm in found if arm.keep == keep]
        assert here == [
            ("evoprune", None),
            *[("random", s) for s in SEEDS],
            ("grid", None),
            ("downsample", None),
            ("frames", None),
        ]
    assert found[0] == Arm("full") and len(found) == 15
    assert [arm.method for arm in arms(["evoprune"], [64], sanity=False)] == ["full", "evoprune"]
    assert "frames" not in {arm.method for arm in arms(["evoprune"], [64])}


def test_a_method_that_is_a_sanity_baseline_too_runs_once():
    found = arms(["random", "grid", "evoprune"], [0.25])
    assert len({arm.slug for arm in found}) == len(found) == 7


def test_settings_go_to_methods_that_have_them():
    found = {
        arm.method: arm for arm in arms(["evoprune", "fastv"], [0.25], {"schedule": "mean", "positions": "original"})
    }
    assert found["evoprune"].settings == {"schedule": "mean", "positions": "original"}
    assert "schedule" not in found["fastv"].settings
    assert found["evoprune"].pruner().schedule == "mean"
    assert len([arm for arm in arms(["random"], [0.25], {"seed": 7}, sanity=False) if arm.method == "random"]) == 1


def test_slugs_are_names_of_files_and_tell_arms_apart():
    made = [
        Arm("full"), Arm("evoprune", 64), Arm("evoprune", 64.0), Arm("evoprune", 0.5), Arm("random", 64, seed=1),
        Arm("random", 64, seed=2), Arm("evoprune", 64, {"schedule": "mean"}), Arm("evoprune", 64, {"schedule": "skip"}),
        Arm("evoprune", 64, {"critical_ratio": 0}, label="EvoPrune (w/o Attn)"), Arm("evoprune", 64, label="a/b ../c"),
    ]  # fmt: skip
    assert len({arm.slug for arm in made}) == len(made)
    assert all(re.fullmatch(r"[\w.-]+", arm.slug) and not arm.slug.startswith(".") for arm in made)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_survives_json(method):
    for arm in arms([method], [0.25], {"positions": "original"}, sanity=False):
        assert Arm.from_dict(json.loads(json.dumps(arm.to_dict()))) == arm


def test_what_the_model_brings_fills_only_gaps():
    arm = Arm("cdpruner", 0.25, {"positions": "original"})
    assert arm.pruner({"text_tower": "embeddings", "recipe": "unused"}).text_tower == "embeddings"
    assert Arm("cdpruner", 0.25, {"text_tower": "mine"}).pruner({"text_tower": "embeddings"}).text_tower == "mine"
    assert Arm("full").pruner() is None and Arm("frames", 0.5).pruner() is None


def test_mistakes():
    with pytest.raises(ValueError, match="did you mean 'evoprune'"):
        arms(["evoprun"], [0.25])
    with pytest.raises(ValueError, match="positions"):
        arms(["evoprune"], [0.25], {"positions": "somewhere"})
