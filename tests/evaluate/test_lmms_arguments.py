"""Reading lmms-eval's --model_args: whose argument each is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")

from evoprune import EvoPrune, KeepFirst, Random
from evoprune.evaluate.lmms.arguments import parameters_of, parse
from evoprune.evaluate.lmms.cache import check_cache
from evoprune.tiny.defaults import defaults

TAKES = ("pretrained", "device", "max_frames_num")


def test_every_argument_finds_its_owner() -> None:
    given = {
        "pretrained": "x", "method": "evoprune", "keep": 64, "schedule": "first:13", "positions": "original",
        "encoder_batch": 4, "pool": "average", "max_frames_num": 8,
    }  # fmt: skip
    wanted = parse(given, TAKES, {})
    assert wanted.pruner == EvoPrune(keep=64, schedule="first:13", positions="original")
    assert wanted.options == {"encoder_batch": 4, "pool": "average"}
    assert wanted.rest == {"pretrained": "x", "max_frames_num": 8}


@pytest.mark.parametrize(("keep", "meant"), [("all", 1.0), (1.0, 1.0), (1, 1), (0.25, 0.25), (64, 64)])
def test_keep_is_a_count_a_share_or_all(keep: object, meant: object) -> None:
    found = parse({"method": "random", "keep": keep, "seed": 3}, TAKES, {}).pruner
    assert found == Random(keep=meant, seed=3) and type(found.keep) is type(meant)


def test_json_says_the_same_as_loose_settings() -> None:
    loose = parse({"method": "evoprune", "keep": 8, "schedule": "[3, 2, 1]"}, TAKES, {})
    told = parse({"method": "evoprune", "keep": 8, "settings": json.dumps({"schedule": [3, 2, 1]})}, TAKES, {})
    assert loose == told and loose.pruner.schedule == (3, 2, 1)


def test_no_method_is_the_model_as_it_is() -> None:
    assert parse({}, TAKES, {}).pruner is None
    assert parse({"method": "none", "keep": "all", "encoder_batch": 2}, TAKES, {}).pruner is None
    assert parse({"method": "none", "pool": "average"}, TAKES, {}).pruner == KeepFirst(1.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"method": "evoprun", "keep": 1}, "did you mean 'evoprune'"),
        ({"method": "evoprune", "keep": 1, "schedul": "skip"}, "did you mean 'schedule'"),
        ({"method": "evoprune", "keep": 1, "max_frame_num": 8}, "did you mean 'max_frames_num'"),
        ({"method": "evoprune"}, "does not say how much to keep"),
        ({"method": "none", "keep": 16}, "keep=16 is for a method"),
        ({"method": "evoprune", "keep": 1, "settings": "[1]"}, "no JSON object"),
        ({"method": "evoprune", "keep": 1, "options": "{"}, "no JSON object"),
        ({"method": "evoprune", "keep": 0}, "keep=0"),
        ({"method": "evoprune", "keep": 1, "positions": "orginal"}, "did you mean 'original'"),
    ],
)
def test_mistakes_are_one_sentence(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + sentence) as caught:
        parse(given, TAKES, {})
    assert "\n" not in str(caught.value)


def test_a_class_that_hands_arguments_on_takes_its_parents() -> None:
    class Parent:
        def __init__(self, a: int, b: str = "b", **rest: object): ...

    class Child(Parent):
        def __init__(self, c: int = 3, **rest: object):
            super().__init__(1, **rest)  # type: ignore[arg-type]

    class Closed(Parent):
        def __init__(self, d: int = 4): ...

    assert set(parameters_of(Child)) == {"a", "b", "c"} and parameters_of(Child)["b"] == "b"
    assert set(parameters_of(Closed)) == {"d"}


def test_a_recipe_counts_by_its_contents(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_bytes(Path(defaults("tiny")["recipe"]).read_bytes())
    given = {"method": "fitprune", "keep": 0.25, "recipe": str(recipe)}
    check_cache(parse(given, TAKES, {}))  # no cache: nothing to be stale

    def simple_evaluate(use_cache: str | None, **more: object) -> None:  # as lmms-eval calls it
        check_cache(parse({**given, **more}, TAKES, {}))

    simple_evaluate(None)
    with pytest.raises(ValueError, match="add fingerprint=f") as caught:
        simple_evaluate("folder")
    fingerprint = str(caught.value).partition("fingerprint=")[2].split()[0]
    simple_evaluate("folder", fingerprint=fingerprint)
    recipe.write_bytes(recipe.read_bytes() + b"\n")
    with pytest.raises(ValueError, match="is not that of"):
        simple_evaluate("folder", fingerprint=fingerprint)
