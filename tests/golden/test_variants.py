"""Conformance on forms beside the recorded ones: other tolerances, given orders, float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from evoprune.pruners.dart import conformance as dart
from evoprune.pruners.fitprune import conformance as fitprune
from tests.golden.test_golden import MANIFESTS, arrays


def case_of(method: str, name: str) -> dict[str, Any]:
    return next(case for case in MANIFESTS[method]["cases"] if case["case"] == name)


@pytest.mark.parametrize("tolerance", [0.1, 0.02])
def test_the_search_ends_at_the_tolerance_asked_for(tolerance: float) -> None:
    case = case_of("fitprune", "fit_last_visited_misses_budget")
    inputs = arrays("fitprune", case, "input")
    found = fitprune(inputs, {**case["hyper_parameters"], "search_tolerance": tolerance, "alphas": [0.05, 0.5, 0.9]})
    assert len(found["search_alphas"]) == math.ceil(math.log2(1 / tolerance))
    recorded = arrays("fitprune", case, "output")
    steps = len(found["search_alphas"])
    assert torch.equal(found["search_schemes"], recorded["search_schemes"][:steps])
    assert found["alphas"].tolist() == [0.05, 0.5, 0.9] and found["schemes"].shape == (3, 3)


def test_an_order_of_pivots_counts_wherever_it_is_given() -> None:
    case = case_of("dart", "llava_n48_t16")
    inputs, wanted = arrays("dart", case, "input"), arrays("dart", case, "output")
    order = wanted["pivot_order"]
    for one, values in (
        ({**inputs, "pivot_order": order}, case["hyper_parameters"]),
        (inputs, {**case["hyper_parameters"], "pivot_order": order.tolist()}),
        ({name: value.double() for name, value in inputs.items()}, case["hyper_parameters"]),
    ):
        assert torch.equal(dart(one, values)["retained"], wanted["retained"])
    turned = dart({**inputs, "pivot_order": order.flip(0)}, case["hyper_parameters"])
    assert torch.equal(turned["pivot_order"], order.flip(0))
    assert not torch.equal(turned["retained"], wanted["retained"])


@pytest.mark.parametrize("case", MANIFESTS["dart"]["cases"], ids=lambda one: one["case"])
def test_the_count_of_picks_follows_from_the_budget(case: dict[str, Any]) -> None:
    """The recorded count of picks a pivot is not needed: the budget, by each variant's rule, gives the same tokens."""
    inputs, wanted = arrays("dart", case, "input"), arrays("dart", case, "output")
    plain = {name: value for name, value in case["hyper_parameters"].items() if name != "per_pivot"}
    assert torch.equal(dart(inputs, plain)["retained"], wanted["retained"])


def test_the_count_of_picks_wins_over_what_it_was_made_of() -> None:
    case = case_of("dart", "llava_n48_t16")
    inputs, values = arrays("dart", case, "input"), case["hyper_parameters"]
    plain = {name: value for name, value in values.items() if name != "per_pivot"}
    assert len(dart(inputs, {**plain, "budget": 24})["retained"]) == 4 + 8 * 3
    assert len(dart(inputs, {**values, "per_pivot": 1})["retained"]) == 4 + 8
