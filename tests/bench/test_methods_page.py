"""The page of methods and its tables: from the registry and the result files, and from nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evoprune.commands.tables import markdown, method_rows
from evoprune.pruners import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def modules():
    pytest.importorskip("scipy", reason="intervals need the extra 'eval'")
    places = [str(ROOT / "benchmarks"), str(ROOT / "docs")]
    sys.path[:0] = places
    try:
        import measured

        import greedy_report

        yield measured, greedy_report
    finally:
        for place in places:
            sys.path.remove(place)
        for name in ("measured", "greedy_report", "results"):
            sys.modules.pop(name, None)


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
