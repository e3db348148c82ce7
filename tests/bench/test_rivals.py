"""The page of methods and its tables: from the registry and the result files, and from nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from evoprune.commands.tables import markdown, method_rows
from evoprune.pruners import METHODS
from evoprune.tiny import benchmark

ROOT = Path(__file__).parents[2]
SCENES = 6


@pytest.fixture(scope="module")
def modules():
    pytest.importorskip("scipy", reason="intervals need the extra 'eval'")
    places = [str(ROOT / "benchmarks"), str(ROOT / "docs")]
    sys.path[:0] = places
    try:
        import measured

        import rivals_report

        yield measured, rivals_report
    finally:
        for place in places:
            sys.path.remove(place)
        for name in ("measured", "rivals_report", "rivals"):
            sys.modules.pop(name, None)


def cell(right, **facts):
    return {"right": np.packbits(right).tobytes().hex(), "questions": len(right), "tokens": 49, "layers": [], **facts}


@pytest.fixture(scope="module")
def result():
    """Random is right every other time, grid always, FastV like random, and CDPruner cannot be measured."""
    count = len(benchmark.examples("test", SCENES))
    everything, half = np.ones(count, dtype=bool), np.arange(count) % 2 == 0

    def of(method, positions="original"):
        return {"method": method, "keep": 0.25, "positions": positions}

    cells = {
        "unpruned": cell(everything),
        "a": cell(half, **of("random")),
        "b": cell(~half, **of("random")),
        "c": cell(everything, **of("grid")),
        "d": cell(~everything, **of("grid", "contiguous")),
        "e": {"error": "no text tower", **of("cdpruner")},
        "f": cell(half, **of("fastv")) | {"tokens": 196, "layers": [196, 49, 49, 49]},
    }
    stages = {"pre_llm": 2.0, "prefill": 4.0, "ttft": 8.0}

    def arm(name, kind, pruner, factor):
        seconds = {stage: {"median": factor * value} for stage, value in stages.items()}
        return {"name": name, "kind": kind, "pruner": pruner, "error": None, "cpu_seconds": seconds}

    arms = [
        arm("native", "native", None, 3.0),
        arm("native-read", "native-read", {"method": "evoprune"}, 1.0),
        arm("grid 0.25", "pruned", {"method": "grid"}, 0.5),
    ]
    return {"scenes": SCENES, "cells": cells, "times": {"arms": arms, "repeats": 9, "batch": 16}}


def test_rows_of_the_table(modules, result):
    lines = list(modules[1].tables(result))
    count = len(benchmark.examples("test", SCENES))
    assert lines[0] == f"Unpruned: 1.000 over {count} questions about {SCENES} scenes."
    assert lines[1] == "Random is the mean of 2 seeds."
    assert "### 1/4 of the tokens" in lines
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    assert rows["grid"].startswith("| grid | 49 | 1.000 | 1.000 [1.000, 1.000] | +0.500 [")
    assert rows["grid"].endswith("| 0.50 | 0.50 | 0.50 |")
    assert rows["random"].startswith("| random | 49 | 0.500 | 0.500 [") and "|  |" in rows["random"]
    assert rows["cdpruner"].startswith("| cdpruner | cannot |")
    assert rows["fastv"].startswith("| fastv | 196 to 49, mean 122 |")
    assert {line.count("|") for line in rows.values()} == {rows["method"].count("|")}
    assert lines[-1] == "`grid` has the highest accuracy, and no other is within its interval."


def test_level_names_those_within_the_interval(modules, result):
    cells = {key: one for key, one in result["cells"].items() if one.get("method") != "grid"}
    rivals = modules[1].Rivals({**result, "cells": cells})
    assert "the interval of the gap to it holds 0 for" in modules[1].level(rivals, 0.25)


def test_summary_marks_what_is_told_apart_from_random(modules, result):
    rows = list(modules[1].summary(result))
    assert rows[0] == "| method | 1/4 | overall time at 1/4 |"
    assert "| grid | 1.000 ▲ | 0.50 |" in rows
    assert any(re.fullmatch(r"\| random \| 0\.5\d\d \|  \|", row) for row in rows)


def test_selections_that_lose_are_named(modules):
    def one(batched, plain):
        arms = {"batched": {"cpu_seconds": batched}, "by image": {"cpu_seconds": plain}}
        return {"arms": arms, "times_faster": plain / batched, "shared_picks": 1.0}

    facts = {"keep": 64, "tokens": 576, "width": 4096, "batch": 8, "repeats": 9}
    lines = list(modules[1].selections({"manifest": facts, "methods": {"grid": one(0.001, 1.5), "tome": one(2, 1)}}))
    assert lines[-1] == "Slower than image by image: `tome`."
    assert "| grid | 1.00 | 1500 | 1500.00 | 1.000 |" in lines


def test_page_is_up_to_date(modules):
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    blocks = {name: markdown(name) for name in ("methods", "settings")} | modules[0].methods_page()
    for name, wanted in blocks.items():
        shown = page.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]
        assert shown == wanted, "run `make readme`"


def test_page_tells_of_every_method():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for method in METHODS.values():
        assert f"**{method.__name__}**" in page


def test_needs_in_words():
    rows = {row["method"]: row for row in method_rows()}
    assert rows["random"]["needs"] == []
    assert "the question" in rows["cdpruner"]["needs"] and "a text tower, or 'embeddings'" in rows["cdpruner"]["needs"]
    assert "a recipe of `evoprune fit`" in rows["fitprune"]["needs"]
    assert rows["fastv"]["needs"] == ["attention from the prompt's last token"]
    for name, method in METHODS.items():
        wanted = getattr(method(keep=1.0), "needs", frozenset())
        assert len(rows[name]["needs"]) >= len(wanted), f"a word for a need of {name} is missing in NEEDS"
        assert rows[name]["paper"] == method.source
