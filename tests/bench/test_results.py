"""Reading results: what is refused, which base counts, and what a ratio is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.bench import results
from tests.bench.resultfiles import arm, cell, result, save, times, video


def named(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for _, one in results.arms(data) if one["name"] == name)


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert results.load(save(video(), tmp_path / "out.json")) == video()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON.*--json"),
        ("[1]", "no result of `evoprune bench`.*None"),
        ('{"format": 3}', "no result of `evoprune bench`.*3"),
        ('{"format": "evoprune.profile/1"}', "no result of `evoprune bench`.*evoprune.profile/1"),
        ('{"format": "evoprune.bench/2", "cells": []}', "evoprune.bench/2.*reads 'evoprune.bench/1'.*anew"),
        ('{"format": "evoprune.bench/1"}', "no list of cells"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        results.load(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json cannot be read \(No such file"):
        results.load(tmp_path / "none.json")


def test_goals_are_judged_without_unread_layers_where_that_was_measured() -> None:
    both, shipped = video()["cells"][0], cell([arm("native", 1.0), arm("evoprune 64", 0.5)])
    assert list(results.bases(both)) == ["native", "native-read"]
    assert results.fair(both) is both["arms"][1] and results.fair(shipped) is shipped["arms"][0]
    failed = cell([arm("native", 1.0), arm("native-read", 0.9, error="out of memory")])
    assert results.fair(failed) is failed["arms"][0]
    assert results.fair(cell([arm("evoprune 64", 0.5)])) is None


def test_ratios_are_of_medians_and_flops_of_counts() -> None:
    data = video()
    mine, native, read = (named(data, name) for name in ("evoprune 64", "native", "native-read"))
    assert results.ratio(mine, native, "encoder") == pytest.approx(0.55)
    assert results.ratio(mine, read, "encoder") == pytest.approx(0.55 / 0.96)
    assert results.ratio(mine, native, "encoder", "tower_flops") == pytest.approx(0.54)
    assert results.ratio(mine, native, "pre_llm", "flops") == pytest.approx(0.54)
    assert results.ratio(mine, native, "encoder", "memory") == pytest.approx(0.54)
    assert results.overhead(mine, native, "encoder") == pytest.approx(0.55 / 0.54)
    assert results.ratio(mine, native, "prefill") is None and results.ratio(mine, None, "encoder") is None
    assert results.overhead(mine, native, "prefill") is None


def test_flops_of_composed_stages_are_sums_of_their_parts_or_nothing() -> None:
    whole = arm("native", 1.0, stages="all")
    assert results.value(whole, "ttft", "flops") == sum(whole["flops"].values())
    assert results.value(arm("native", 1.0), "ttft", "flops") is None
    counted = arm("native", 1.0, flops=1.0)
    counted["flops"]["pre_llm"] = 7
    assert results.value(counted, "pre_llm", "flops") == 7


def test_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quantity='time'.*seconds"):
        results.value(arm("native", 1.0), "encoder", "time")  # type: ignore[arg-type]


def test_processor_time_counts_for_one_thread_of_a_cpu_only() -> None:
    mine = arm("native", 1.0, cpu=True)
    assert results.clock(result([], device="cpu"), mine) == "cpu_seconds"
    assert results.clock(result([], device="cpu", threads=2), mine) == "seconds"
    assert results.clock(result([], device="cuda"), mine) == "seconds"
    assert results.clock(result([], device="cpu"), arm("native", 1.0)) == "seconds"


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=12))
def test_the_spread_lies_between_the_runs_own_ratios(pairs: list[tuple[float, float]]) -> None:
    mine, to = arm("evoprune 64", 1.0), arm("native", 1.0)
    mine["seconds"]["encoder"]["all"], to["seconds"]["encoder"]["all"] = (
        list(runs) for runs in zip(*pairs, strict=True)
    )
    found = results.spread(mine, to, "encoder")
    own = [a / b for a, b in pairs]
    assert found is not None and min(own) - 1e-9 <= found[0] <= found[1] <= max(own) + 1e-9


def test_runs_that_do_not_pair_have_no_spread() -> None:
    mine, to = arm("evoprune 64", 1.0), arm("native", 1.0)
    to["seconds"]["encoder"] = {**times(1.0), "all": [1.0]}
    assert results.spread(mine, to, "encoder") is None and results.spread(mine, None, "encoder") is None


@pytest.mark.parametrize(
    ("known", "words"),
    [({"frames": 64}, "64 frames, batch 1"), ({"frames": None, "images": 1, "batch": 16}, "1 image, batch 16")],
)
def test_a_cell_is_called_by_its_input(known: dict[str, Any], words: str) -> None:
    assert results.label(cell([], **known)) == words
