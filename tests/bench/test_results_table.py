"""Results as tables and as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evoprune.bench.columns import columns, facts, notes, remarks, selected, short, time_unit
from evoprune.bench.table import CSV, packed, show, write_csv
from tests.bench.resultfiles import arm, cell, result, video


def printed(data: dict[str, Any], width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    show(data, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def by_heading(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Columns by group and heading of the first cell."""
    return {f"{c.group}|{c.heading}": c.cells for c in columns(data, data["cells"][0])}


def test_columns_hold_times_shares_and_both_ratios() -> None:
    found = by_heading(video())
    assert found["|arm"][2] == "evoprune 64"
    assert found["times|encoder s"][2] == "0.550 [0.539, 0.561]"
    assert found["times|of encoder"] == ("", "", "4.0%", "12.0%", "6.0%", "3.0%")
    assert found["ratio to native as shipped|encoder ×"][:3] == ("1.000", "0.960", "0.550")
    assert found["ratio to native without unread layers|encoder ×"][2] == "0.573"
    assert found["ratio to native as shipped|tower FLOP ×"][2] == "0.540"
    assert found["memory|encoder peak GiB"][2] == "4.32"
    assert not any("first token" in heading or "LLM ×" in heading.split("|")[1][:5] for heading in found)


def test_all_stages_bring_llm_and_overall_ratios_and_one_thread_its_processor_time() -> None:
    arms = [arm("native", 1.0, stages="all", cpu=True), arm("evoprune 64", 0.5, stages="all", cpu=True, selection=0.1)]
    found = by_heading(result([cell(arms)], stages="all", device="cpu"))
    group = "ratio to native as shipped|"
    for heading in ("encoder × processor time", "encoder ×", "pre-LLM ×", "LLM ×", "overall ×"):
        assert found[group + heading] == ("1.000", "0.500"), heading
    assert "times|first token s" in found and "times|decode step ms" in found


def test_arms_that_failed_are_told_and_not_tabled() -> None:
    data = result([cell([arm("native", 1.0), {**arm("tome 64", 1.0), "error": "out of memory"}])])
    assert by_heading(data)["|arm"] == ("native",)
    assert "tome 64 failed: out of memory" in notes(data, data["cells"][0])


def test_a_cell_whose_arms_all_failed_says_why() -> None:
    failed = {"name": "native", "kind": "native", "error": "out of memory", "attention": "sdpa"}
    data = result([cell([failed])])
    assert columns(data, data["cells"][0]) == []
    assert "native failed: out of memory" in printed(data, 80)


def test_time_in_no_stage_is_said_from_three_percent_on() -> None:
    for share, said in ((0.029, False), (0.031, True), (-0.05, True), (None, False)):
        arms = [arm("native", 1.0, unaccounted=share)]
        lines = notes(result([cell(arms)]), cell(arms))
        assert any("in no stage: native" in line for line in lines) == said, share


def test_without_a_native_arm_there_are_no_ratios() -> None:
    data = result([cell([arm("evoprune 64", 0.5)])])
    assert not any(group.startswith("ratio") for group in by_heading(data))
    assert "No native arm was measured, so there are no ratios." in notes(data, data["cells"][0])


def test_backends_that_differ_are_named_by_arm() -> None:
    same = facts(video(), video()["cells"][0])
    assert "bfloat16 on NVIDIA H200" in same and "attention sdpa in all arms" in same
    arms = [arm("native", 1.0), arm("evoprune 64", 0.5, attention="eager")]
    assert "attention native sdpa, pruned eager" in facts(video(), cell(arms))


def test_one_run_has_no_spread() -> None:
    one = arm("native", 1.0)
    one["seconds"]["encoder"] |= {"all": [1.0]}
    data = result([cell([one], repeats=1)])
    assert by_heading(data)["times|encoder s"] == ("1.00",) and "one run after 2" in facts(data, data["cells"][0])


def test_a_mode_that_the_encoder_did_not_run_in_is_said() -> None:
    arms = [arm("native", 1.0), arm("evoprune 64", 0.5, encoder_mode="cudagraph", encoder_mode_ran="eager")]
    assert "evoprune 64 cudagraph ran eager: its encoder could not run as cudagraph." in remarks(video(), cell(arms))


def test_kernels_that_failed_are_told() -> None:
    data = video(kernels={"received": "failed: out of registers", "merging": "ready"})
    told = [line for line in notes(data, data["cells"][0]) if line.startswith("Kernel")]
    assert told == ["Kernel received failed: out of registers; the plain path ran."]


def test_mode_and_schedule_are_part_of_an_arms_name_where_they_are_not_the_usual() -> None:
    graph = arm("evoprune 64", 0.5, encoder_mode="cudagraph")
    rare = arm("evoprune 64", 0.5, pruner={"method": "evoprune", "keep": 64, "schedule": "every:4"})
    own = arm("evoprune 64", 0.5, pruner={"method": "evoprune", "keep": 64, "schedule": [512, 0]})
    names = by_heading(result([cell([arm("native", 1.0), graph, rare, own])]))["|arm"]
    assert names == ("native", "evoprune 64 cudagraph", "evoprune 64 every:4", "evoprune 64 own schedule")


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200, 300])
def test_no_table_is_wider_than_the_terminal(width: int) -> None:
    text = printed(video(), width)
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= width for line in lines)
    assert "…" not in text
    every = {column.heading for column in columns(video(), video()["cells"][0])}
    assert all(heading in text for heading in every)
    assert width < 80 or text.count("ratio to native without unread layers") == 1  # those of one base stay together


def test_wide_terminals_show_times_and_ratios_side_by_side() -> None:
    found = columns(video(), video()["cells"][0])
    assert [len(packed(found, width)) for width in (1000, 120)] == [2, 3]  # the second base has its own table
    for table in packed(found, 70):
        assert table[0] is found[0]
        assert len({column.group for column in table if column.group.startswith("ratio")}) <= 1


def test_csv_has_a_row_a_cell_arm_and_stage(tmp_path: Path) -> None:
    data = video()
    data["cells"].append(cell([{**arm("native", 2.0), "seconds": {}, "flops": {}, "memory": {}, "error": "no"}]))
    write_csv(data, tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == CSV
    mine = {row["stage"]: row for row in rows if row["arm"] == "evoprune 64"}
    assert list(mine) == ["encoder", "selection", "projector", "pre_llm", "whole"]
    assert float(mine["encoder"]["seconds_median"]) == 0.55 and mine["encoder"]["kept"] == "64"
    assert float(mine["encoder"]["time_to_native_read"]) == pytest.approx(0.55 / 0.96)
    assert float(mine["pre_llm"]["flops_to_native"]) == pytest.approx(0.54)
    assert mine["selection"]["time_to_native"] == "" and mine["encoder"]["model"] == "llava-video-7b"
    assert rows[-1]["error"] == "no" and rows[-1]["stage"] == ""


def test_units_and_digits() -> None:
    assert [time_unit(s)[1] for s in (12.0, 1.0, 0.5, 0.001, 0.0004)] == ["s", "s", "ms", "ms", "µs"]
    assert [short(x) for x in (1234.5, 100.0, 99.94, 9.999, 0.0123)] == ["1234", "100", "99.9", "10.0", "0.0123"]


def test_what_selects_nothing_has_no_share() -> None:
    assert selected(arm("native", 1.0)) is None and selected(arm("x", 1.0, selection=0.04)) == pytest.approx(0.04)
