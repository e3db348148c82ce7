"""What a server is told: read from a config, refused where it cannot be served, and the budgets of single requests."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evoprune
from evoprune.pruners import METHODS
from evoprune.serve.options import KEEP, Options, check_arguments, from_row, requested, to_row

SERVABLE = {"evoprune", "tome", "fastervlm", "vispruner", "visionzip", "divprune", "idpruner", "random", "grid", "pool",
            "first"}  # fmt: skip
KEEPS = st.one_of(st.integers(1, 10**6), st.floats(0, 1, exclude_min=True))
NO_BUDGETS = [True, False, "16", "abc", "", [16], (), {}, math.nan, math.inf, -math.inf, 10**400, 1 + 2j]


def config(given_: Any) -> Any:
    return SimpleNamespace(evoprune=given_)


def test_options_are_read_from_a_dict_or_a_list_of_them() -> None:
    encoder, feature = evoprune.EvoPrune(keep=49, critical_ratio=0.5), evoprune.DivPrune(keep=0.1)
    assert Options.read(config(encoder.to_dict())).pruners == (encoder,)
    assert Options.read(config([encoder.to_dict(), feature.to_dict()])).pruners == (encoder, feature)
    assert Options.read(config({"method": "evoprune", "keep": 64})).pruners == (evoprune.EvoPrune(keep=64),)


@pytest.mark.parametrize("given_", [None, SimpleNamespace()])
def test_a_config_without_options_says_how_to_give_them(given_: Any) -> None:
    with pytest.raises(ValueError, match=r"--hf-overrides.*evoprune serve"):
        Options.read(config(None) if given_ is None else given_)


@pytest.mark.parametrize(
    ("given_", "error", "match"),
    [
        ([], ValueError, "list of pruners is empty"),
        ({"method": "evoprone", "keep": 64}, ValueError, "evoprune"),
        ({"method": "evoprune"}, ValueError, "how much to keep"),
        ({"keep": 64}, ValueError, "names no method"),
        ({"method": "evoprune", "keep": 64, "critcal_ratio": 1}, ValueError, "critical_ratio"),
        ({"method": "evoprune", "keep": 0}, ValueError, "keep=0"),
        ({"method": "evoprune", "keep": "64"}, TypeError, "no number"),
        ("evoprune", TypeError, "no description"),
        (["evoprune"], TypeError, "no description"),
        (64, TypeError, "no description"),
    ],
)
def test_what_describes_no_pruner_is_refused(given_: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Options.read(config(given_))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fitprune"}))  # which needs a recipe, and is as FastV
def test_a_method_is_served_or_refused_with_a_reason(name: str) -> None:
    pruner = evoprune.Pruner.from_dict({"method": name, "keep": 0.5})
    if name in SERVABLE:
        assert Options.of([pruner]).pruners == (pruner,)
    else:
        with pytest.raises(ValueError, match=f"{name} (acts at the (decoder|input) stage|reads the question)"):
            Options.of([pruner])


def test_original_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positions='original'.*leave it out"):
        Options.of([evoprune.EvoPrune(keep=64, positions="original")])


@given(keep=KEEPS)
def test_another_budget_is_all_that_changes(keep: int | float) -> None:
    pruner = evoprune.EvoPrune(keep=64, critical_ratio=0.5)
    (changed,) = Options.of([pruner]).at(keep).pruners
    assert changed.to_dict() == {**pruner.to_dict(), "keep": keep} and type(changed.keep) is type(keep)


def test_no_budget_is_the_servers() -> None:
    options = Options.of([evoprune.EvoPrune(keep=64), evoprune.DivPrune(keep=8)])
    assert options.at(None) is options


@pytest.mark.parametrize("keep", [0, -5, 0.0, 1.5, True, "16", [16]])
def test_what_is_no_budget_changes_nothing(keep: Any) -> None:
    with pytest.raises(ValueError, match="keep"):
        Options.of([evoprune.EvoPrune(keep=64)]).at(keep)


def test_a_budget_belongs_to_one_pruner() -> None:
    with pytest.raises(ValueError, match=r"evoprune and divprune.*leave it out"):
        Options.of([evoprune.EvoPrune(keep=64), evoprune.DivPrune(keep=8)]).at(16)


@given(keep=KEEPS)
def test_a_budget_travels_as_numbers(keep: int | float) -> None:
    back = from_row(json.loads(json.dumps(to_row(keep))))
    assert back == keep and type(back) is type(keep)


def test_no_budget_and_one_token_and_a_share_of_one_are_three_rows() -> None:
    rows = [to_row(None), to_row(1), to_row(1.0)]
    assert len(set(map(tuple, rows))) == 3
    assert [repr(from_row(row)) for row in rows] == ["None", "1", "1.0"]


@given(keep=KEEPS)
def test_a_request_asks_for_a_budget_or_for_none(keep: int | float) -> None:
    assert repr(requested({KEEP: keep})) == repr(keep)
    assert requested({}) is None and requested({KEEP: None}) is None


@pytest.mark.parametrize("keep", NO_BUDGETS, ids=lambda keep: repr(keep)[:8])
def test_a_request_for_what_is_no_budget_is_refused(keep: Any) -> None:
    with pytest.raises(ValueError, match="is no budget"):
        requested({KEEP: keep})


def test_a_request_sets_the_budget_and_nothing_else() -> None:
    check_arguments({KEEP: 16})
    check_arguments({})
    with pytest.raises(ValueError, match=r"'crop_size', 'size'.*evoprune_keep only"):
        check_arguments({KEEP: 16, "size": 1, "crop_size": 2})


def test_json_is_the_same_for_the_same_options_and_for_no_others() -> None:
    one = Options.read(config({"keep": 64, "method": "evoprune", "critical_ratio": 0.5}))
    same = Options.read(config([{"critical_ratio": 0.5, "method": "evoprune", "keep": 64, "schedule": "skip"}]))
    assert one.to_json() == same.to_json() and "\n" not in one.to_json()
    others = [
        one, one.at(1), one.at(1.0), one.at(0.5), Options.of([evoprune.EvoPrune(keep=64)]),
        Options.of([evoprune.ToMe(keep=64)]), Options.of([*one.pruners, evoprune.DivPrune(keep=8)]),
    ]  # fmt: skip
    assert len({other.to_json() for other in others}) == len(others)
    assert Options.read(config(json.loads(one.to_json()))) == one
