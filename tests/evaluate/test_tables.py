"""Tables of a summary: what stands in the cells, and what is said below them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evoprune.evaluate import tables
from evoprune.evaluate.arms import FULL, Arm
from evoprune.evaluate.summary import summarise
from evoprune.evaluate.tables.rows import NONE, Table, budget, interval

from .results_case import at, bits, build, small

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    return summarise(small(tmp_path_factory.mktemp("results") / "small"))


def printed(parts, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def row(table, method):
    (found,) = [cells for cells in table.rows if cells[0] == method]
    return dict(zip(table.headings, found, strict=True))


def test_one_table_a_budget_each_with_the_unpruned_model(summary):
    found = tables.task_tables(summary, "shapes")
    assert [table.title for table in found] == [
        "shapes, 16 tokens: 12 questions in 6 groups", "shapes, 4 tokens: 12 questions in 6 groups",
    ]  # fmt: skip
    for table in found:
        assert table.rows[0][0] == "full"
        assert all(len(cells) == len(table.headings) for cells in table.rows)
    with pytest.raises(ValueError, match="no task 'x': choose one of clips, shapes"):
        tables.task_tables(summary, "x")


def test_cells(summary):
    large, little = tables.task_tables(summary, "shapes")
    assert large.headings == (
        "method", "tokens", "accuracy", "rank", "relative", "q", "ahead of random", "loyalty", "group A (n = 4)",
    )  # fmt: skip
    arm = next(one for one in summary["tasks"]["shapes"]["arms"] if one["name"] == "evoprune")
    cells = row(large, "evoprune")
    assert cells["tokens"] == "16" and cells["rank"] == "1-5" and cells["q"] == "1"
    assert cells["accuracy"] == interval(arm["accuracy"]) and cells["accuracy"].startswith("0.750 [")
    assert cells["relative"].startswith("0.900 [") and cells["group A (n = 4)"].startswith("0.750 [")
    assert cells["ahead of random"].startswith("0.222 [") and cells["loyalty"].startswith("0.917 [")
    assert row(large, "random")["ahead of random"] == row(large, "full")["rank"] == NONE
    assert "empty" not in large.headings and row(little, "evoprune")["empty"] == "1"


def test_notes(summary, tmp_path):
    large, little = tables.task_tables(summary, "shapes")
    assert large.notes == ("random = mean of 3 seeds",)
    assert "fastv refused: fastv keeps at least 8 tokens of this model, not 4" in little.notes
    assert "warning: 1 of 12 answers of evoprune are empty, and count as scored" in little.notes
    assert row(little, "fastv") == dict.fromkeys(little.headings, NONE) | {"method": "fastv", "accuracy": "refused"}
    cells = [(Arm(FULL), bits("1110")), *at(0.5, {"evoprune": "1100", "downsample": "1111"}), (Arm("grid", 0.5), "no")]
    (table,) = tables.tables(summarise(build(tmp_path / "r", {"shapes": cells})))
    assert table.title.startswith("shapes, 50 % of the tokens")
    assert table.notes[0] == "no sanity baselines: random (not run), grid (refused)"
    assert table.notes[-1].startswith("group A is empty") and row(table, "evoprune")["group A (n = 0)"] == NONE


def test_empty_answers_of_seeds_are_counted_over_all_of_them(tmp_path):
    cells = [(Arm(FULL), bits("11")), *at(4, {"random": "1_/__"})]
    (table,) = tables.tables(summarise(build(tmp_path / "r", {"shapes": cells})))
    assert any(note.startswith("warning: 3 of 4 answers of random") for note in table.notes)


def test_only_the_unpruned_model(tmp_path):
    (table,) = tables.tables(summarise(build(tmp_path / "r", {"shapes": [(Arm(FULL), bits("110"))]})))
    assert table.title == "shapes: 3 questions in 2 groups" and len(table.rows) == 1


def test_arms_of_one_name_tell_their_settings(tmp_path):
    cells = [(Arm(FULL), bits("11")), (Arm("fastv", 4), bits("11")), (Arm("fastv", 4, {"layer": 3}), bits("10"))]
    (table,) = tables.tables(summarise(build(tmp_path / "r", {"shapes": cells})))
    assert sorted(cells[0] for cells in table.rows) == ["fastv (default)", "fastv (layer=3)", "full"]


def test_the_table_over_all_tasks_names_both_relative_accuracies(summary):
    table = tables.tables(summary)[-1]
    assert table.headings[-2:] == ("mean of ratios", "ratio of means")
    assert ("evoprune", "16 tokens", "0.688", "0.867", "0.868") in table.rows
    assert table.rows[0] == ("full", "all tokens", "0.792", "1.000", "1.000")


def test_separated_arms_have_a_rank_of_their_own(tmp_path):
    scores = {"evoprune": "1" * 60, "fastv": "10" * 30, "grid": "01" * 30, "random": "0" * 60}
    folder = build(tmp_path / "r", {"shapes": [(Arm(FULL), bits("1" * 60)), *at(4, scores)]}, size=1)
    (table,) = tables.tables(summarise(folder))
    assert {cells[0]: cells[3] for cells in table.rows} == {
        "full": NONE, "evoprune": "1", "fastv": "2-3", "grid": "2-3", "random": "4",
    }  # fmt: skip


def test_markdown_is_a_table_whatever_the_words():
    text = tables.markdown(Table("t", ("a", "b"), (("x|y", "line\nbreak"),), ("one\n\ntwo",)))
    assert text == "**t**\n\n| a | b |\n| --- | --- |\n| x\\|y | line break |\n\n- one two\n"
    assert tables.markdown(Table("t", ("a",), ())).endswith("| --- |\n")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_terminal_shows_every_cell_in_any_width(summary, width):
    text = printed(tables.rich_tables(summary), width)
    assert max(map(len, text.splitlines())) <= width
    for table in tables.tables(summary):
        for cells in table.rows:
            assert all(cell in text for cell in cells)
    assert "Benjamini-Hochberg" in " ".join(text.split())


def test_terminal_takes_words_as_they_are():
    table = Table("t [x]", ("a", "b"), (("[red]name[/red]", "1 [0, 2]"),), ("[note]",))
    text = printed([tables.rich_table(table)], 80)
    assert all(word in text for word in ("t [x]", "[red]name[/red]", "1 [0, 2]", "[note]"))


def test_packed_columns_fit_and_none_is_lost():
    table = Table("t", ("name", "aaaa", "bbbb", "cccc"), (("x", "1" * 10, "2" * 10, "3" * 10),))
    assert tables.packed(table, 200) == [[0, 1, 2, 3]]
    assert tables.packed(table, 30) == [[0, 1, 2], [0, 3]]
    assert tables.packed(table, 1) == [[0, 1], [0, 2], [0, 3]]


def test_times_stand_beside_the_unpruned_model(summary):
    run = {
        "bases": [{"kind": "native", "error": None, "times": {"ttft": {"median": 2.0}}}],
        "arms": [{"arm": Arm("evoprune", 16).to_dict(), "error": None, "times": {"ttft": {"median": 0.5}}}],
    }
    timed = {"configuration": {"frames": None, "picture": [480, 640], "batch": 2}, "runs": [run]}
    table = tables.task_tables(summary, "shapes", timed)[0]
    assert row(table, "evoprune")["time"] == "0.250" and row(table, "grid")["time"] == NONE
    assert any(note.startswith("time: to the first token") and "batch 2" in note for note in table.notes)
    assert "time: to the first token" in " ".join(printed(tables.rich_tables(summary, timed), 200).split())


def test_words_for_budgets():
    words = ["all tokens", "1 token", "64 tokens", "100 % of the tokens", "6.25 % of the tokens"]
    assert [budget(keep) for keep in (None, 1, 64, 1.0, 0.0625)] == words


def test_the_least_p_of_drawn_flips_is_a_bound(tmp_path):
    cells = [(Arm(FULL), bits("1" * 64)), *at(4, {"evoprune": "0" * 64, "grid": "1" * 63 + "0"})]
    (table,) = tables.tables(summarise(build(tmp_path / "r", {"shapes": cells}, size=1)))
    assert row(table, "evoprune")["q"] == "≤0.0004" and row(table, "grid")["q"] == "1"


def test_notes_tell_which_random(tmp_path):
    other = {"positions": "original"}
    cells = [(Arm(FULL), bits("1" * 60)), (Arm("evoprune", 4), bits("1" * 60)), (Arm("tome", 4, other), bits("0" * 60))]
    cells += [(Arm("random", 4, seed=0), bits("0" * 60)), (Arm("random", 4, other, 0), bits("1" * 60))]
    cells += [(Arm("downsample", 4), bits("0" * 60))]
    (table,) = tables.tables(summarise(build(tmp_path / "r", {"shapes": cells}, size=1)))
    assert "ahead of random: evoprune, downsample beside random (default)" in table.notes or (
        "ahead of random: downsample, evoprune beside random (default)" in table.notes
    )
    assert "ahead of random: tome beside random (positions=original)" in table.notes
    assert "group A: no downsample with the settings of random (positions=original), tome" in table.notes
    assert row(table, "evoprune")["ahead of random"].endswith("] +")
    assert row(table, "tome")["ahead of random"].endswith("] -")
