"""The paper's tables: its numbers with their errors, the cells of each table, and ours beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evoprune.evaluate import paper
from evoprune.evaluate.arms import FRAMES, FULL, SANITY, Arm
from evoprune.evaluate.embedded.runner import Embedded
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.paper import numbers as printed
from evoprune.evaluate.paper import render
from evoprune.evaluate.paper.cells import cells, embedded, lines
from evoprune.evaluate.paper.tables import MVBENCH, RIVALS, SCHEDULES, TABLES
from evoprune.evaluate.summary import summarise
from evoprune.evaluate.sweep import sweep
from evoprune.schedules import allocate

NUMBERS = {
    "table1": printed.TABLE1, "table2": printed.TABLE2, "table3": printed.TABLE3, "fig4": printed.FIGURE4,
}  # fmt: skip
MAIN = {"table1": slice(0, 5), "table2": (0, 1, 4), "table3": slice(0, 3)}


def benchmarks(table: str, row: tuple[float, ...]) -> list[float]:
    place = MAIN[table]
    return list(row[place]) if isinstance(place, slice) else [row[i] for i in place]


# The numbers as printed.


@pytest.mark.parametrize("table", NUMBERS)
def test_every_row_has_every_column(table: str) -> None:
    assert {len(row) for row in NUMBERS[table].values()} == {len(printed.COLUMNS[table])}
    methods = {"table1": 19, "table2": 19, "table3": 5, "fig4": 6}
    assert len(NUMBERS[table]) == methods[table]


@pytest.mark.parametrize("table", MAIN)
def test_the_printed_averages_follow_from_the_printed_entries(table: str) -> None:
    rows = NUMBERS[table]
    native = printed.acc(table, benchmarks(table, rows[FULL, None]))
    for row in rows.values():
        mine = printed.acc(table, benchmarks(table, row))
        assert mine == pytest.approx(row[-2], abs=0.0701)
        assert 100 * mine / native == pytest.approx(row[-1], abs=0.2)


def test_table_one_divides_five_benchmarks_by_four() -> None:
    native = benchmarks("table1", printed.TABLE1[FULL, None])
    assert printed.acc("table1", native) == pytest.approx(76.5)
    assert printed.mean("table1", native) == pytest.approx(61.2)
    ours, cdpruner = (benchmarks("table1", printed.TABLE1[name, 128]) for name in ("evoprune", "cdpruner"))
    assert printed.mean("table1", ours) - printed.mean("table1", cdpruner) == pytest.approx(0.8)  # not 1.0
    assert printed.mean("table2", [58.0, 56.0, 59.7]) == pytest.approx(57.9)


def test_what_table_two_gets_wrong() -> None:
    rows = printed.TABLE2
    assert rows["fastervlm", 64] == rows["vispruner", 64] and rows["fastervlm", 32] != rows["vispruner", 32]
    for (method, _), (*_, before, model, overall, _, _) in rows.items():
        predicted = 0.57 * before + 0.43 * model
        if method == "evoprune":
            assert overall - predicted > 0.04
        else:
            assert overall == pytest.approx(predicted, abs=0.012)
    missed = {}
    for key, row in rows.items():
        if abs((mine := printed.acc("table2", benchmarks("table2", row))) - row[-2]) > 0.0501:
            missed[key] = (f"{mine:.1f}", f"{row[-2]:.1f}")
    assert missed == {
        ("fastervlm", 32): ("55.9", "55.8"), ("cdpruner", 32): ("56.8", "56.7"), ("evoprune", 32): ("56.6", "56.7"),
        ("evoprune", 16): ("55.5", "55.4"),
    }  # fmt: skip
    (said,) = [note for note in printed.NOTES["table2"] if note.startswith("Four averages")]
    assert all(value in said for pair in missed.values() for value in pair)
    both = printed.TABLE3["without both", 64]
    assert f"{printed.acc('table3', both[:3]):.1f}" == "56.0" and both[3] == 55.9
    assert "56.0, where 55.9" in printed.NOTES["table3"][1]
    before, model, overall = rows["evoprune", 64][8:11]
    assert not min(before, model) <= overall <= max(before, model)
    cdpruner, evoprune = (printed.mean("table2", benchmarks("table2", rows[m, 32])) for m in ("cdpruner", "evoprune"))
    assert cdpruner > evoprune and rows["cdpruner", 32][-1] < rows["evoprune", 32][-1]


def test_the_tables_contradict_or_repeat_each_other_where_the_notes_say_so() -> None:
    assert benchmarks("table2", printed.TABLE2["evoprune", 64]) == list(printed.TABLE3["evoprune", 64][:3])
    assert printed.FIGURE4["skip", 64][1] != printed.TABLE2["evoprune", 64][4]
    assert printed.FIGURE4["skip", 16][1] == pytest.approx(printed.TABLE2["evoprune", 16][4] - 1.84)
    assert all(printed.TABLE1["evoprune", keep][5] > 1 for keep in (128, 64, 32))  # slower before the LLM
    assert all(printed.NOTES[table] for table in TABLES)


def test_equal_merges_cannot_reach_the_small_budgets_of_figure_four() -> None:
    merging = 13
    for keep in (32, 16):
        each = (729 - keep) / merging
        assert each > (keep + each) / 2  # the last layer would merge more than half of its tokens
        assert sum(allocate(729, keep, 26, "skip")) == 729 - keep  # ours places them elsewhere
    assert (729 - 64) / merging <= (64 + (729 - 64) / merging) / 2  # which 64 does not ask


# The cells.


def test_table_one_is_six_methods_at_three_budgets_with_sanity_on_top() -> None:
    arms = [line.arm for line in lines("table1")]
    assert arms[0] == Arm(FULL)
    for keep in (128, 64, 32):
        at = [arm for arm in arms if arm.keep == keep]
        assert [arm.method for arm in at[:6]] == list(RIVALS)
        assert {arm.method for arm in at[6:]} == set(SANITY) and len(at) == 6 + 5
    assert len(arms) == 1 + 3 * 11 and not any(arm.method == FRAMES for arm in arms)
    assert len(lines("table1", sanity=False)) == 1 + 3 * 6
    assert {line.key for line in lines("table1")} - {None} == set(printed.TABLE1)


def test_each_rival_can_be_made_with_what_it_needs() -> None:
    towers = {
        table: next(line.arm.settings["text_tower"] for line in lines(table) if line.arm.method == "cdpruner")
        for table in ("table1", "table2")
    }
    assert towers == {"table1": "openai/clip-vit-large-patch14-336", "table2": "embeddings"}
    own = lines("table1", settings={"text_tower": "embeddings", "positions": "original"})
    cdpruner = next(line.arm for line in own if line.arm.method == "cdpruner")
    assert cdpruner.settings == {"text_tower": "embeddings", "positions": "original"}
    assert all(line.arm.pruner() is not None for line in own[1:])


def test_video_tables_have_fewer_frames_and_the_ablations_their_labels() -> None:
    for table in ("table2", "table3", "fig4"):
        arms = [line.arm for line in lines(table)]
        budgets = TABLES[table].budgets
        assert [arm.keep for arm in arms if arm.method == FRAMES] == list(budgets)
    parts = {line.arm.name: line.arm.pruner() for line in lines("table3", sanity=False)[1:]}
    assert [*parts] == [
        "evoprune without both", "evoprune without attention", "evoprune without diversity", "evoprune",
    ]  # fmt: skip
    told = {name: (pruner.critical_ratio, pruner.diversity) for name, pruner in parts.items()}  # type: ignore[union-attr]
    assert list(told.values()) == [(0.0, 0.0), (0.0, 1.0), (0.25, 0.0), (0.25, 1.0)]
    assert "importance" not in parts["evoprune without attention"].needs  # type: ignore[union-attr]
    assert {line.key for line in lines("table3")} - {None} == set(printed.TABLE3)


def test_figure_four_is_six_schedules_at_three_budgets() -> None:
    found = [line for line in lines("fig4", sanity=False) if line.arm.method != FULL]
    assert [line.key for line in found] == [(s, b) for b in (64, 32, 16) for s in SCHEDULES]
    assert all(line.arm.settings["schedule"] == line.key[0] for line in found if line.key)
    assert len({line.arm.slug for line in found}) == 18


@pytest.mark.parametrize(
    ("table", "model", "keeps"),
    [
        ("table1", "tiny", {44, 22, 11}),  # 128, 64, 32 of 576 are so many of 196
        ("table2", "tiny-video", {9, 5, 2}),  # 64, 32, 16 of 169 are so many of 25
        ("fig4", "tiny", {74, 37, 19}),
    ],
)
def test_an_embedded_model_gets_the_same_shares(table: str, model: str, keeps: set[int]) -> None:
    listed = cells(table, model)
    assert {task for task, _ in listed} == {embedded(model)}
    assert {arm.keep for _, arm in listed} - {None} == keeps
    assert any(arm.method == FRAMES for _, arm in listed) == (model == "tiny-video")
    assert all("text_tower" not in arm.settings for _, arm in listed)  # the model brings its own
    same = [(line.arm.method, line.arm.label) for line in lines(table, sanity=False)]
    here = [(line.arm.method, line.arm.label.replace(":6", ":13")) for line in lines(table, model, sanity=False)]
    assert here == same


def test_schedules_scale_with_the_layers_that_may_merge() -> None:
    for model in ("tiny", "tiny-video"):  # 11 and 12 of them
        schedules = [line.arm.settings["schedule"] for line in lines("fig4", model, sanity=False)[1:7]]
        assert schedules == ["mean", "skip", "first:6", "last:6", "increasing:1.0", "decreasing:1.0"]


def test_tasks_are_those_of_the_harness() -> None:
    pytest.importorskip("lmms_eval", reason="the names of tasks need the extra 'eval'")
    tasks = list(dict.fromkeys(task for task, _ in cells("table1", sanity=False)))
    assert tasks == ["vqav2_val", "mme", "mmbench_en_dev_static", "mmbench_cn_dev_static", "mmvet"]
    video = list(dict.fromkeys(task for task, _ in cells("table2", sanity=False)))
    assert len([task for task in video if task.startswith("mvbench_")]) == MVBENCH.subtasks
    assert video[-2:] == ["longvideobench_val_v", "videomme"]


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown table 'table4': did you mean 'table\d'\?"):
        cells("table4", "tiny")


# Ours beside theirs.


def entry(arm: Arm, accuracy: float | None, **facts: Any) -> dict[str, Any]:
    values = None if accuracy is None else [accuracy, accuracy - 0.1, accuracy + 0.1]
    found = {"arm": arm.to_dict(), "name": arm.name, "error": None, "accuracy": values, "kinds": {}, "metrics": {}}
    return {**found, **facts}


def summary(tasks: dict[str, list[dict[str, Any]]], model: str | None = None) -> dict[str, Any]:
    return {"configuration": {"model": model}, "tasks": {task: {"arms": arms} for task, arms in tasks.items()}}


def row(rendered: paper.Rendered, arm: str, keep: int | None, line: str = "ours") -> dict[str, Any]:
    """The line of an arm, looked for by the budget of ours."""
    start = next(i for i, one in enumerate(rendered.values) if (one["arm"], one["keep"]) == (arm, keep))
    return next(one for one in rendered.values[start:] if one["line"] == line)


@pytest.fixture(scope="module")
def one() -> paper.Rendered:
    """Table 1 with the paper's own numbers of the unpruned model, and EvoPrune at 64 a bit off; nothing else."""
    metric = {column.task: (column.metric, column.scale) for column in TABLES["table1"].columns}
    native = dict(zip(metric, (78.5, 1508.0, 61.8, 58.1, 32.2), strict=True))
    pruned = dict(zip(metric, (76.6, 1404.0, 58.3, 54.6, 32.4), strict=True))
    tasks = {
        task: [
            entry(Arm(FULL), 0.5, metrics={name: native[task] / scale}),
            entry(Arm("evoprune", 64, {"positions": "original"}), 0.4, metrics={name: pruned[task] / scale}),
            entry(Arm("dart", 64), None, error="too few layers"),
        ]
        for task, (name, scale) in metric.items()
    }
    return render("table1", summary(tasks, "llava-hf/llava-1.5-7b-hf"))


def test_differences_are_ours_minus_theirs_in_the_papers_units(one: paper.Rendered) -> None:
    gaps = row(one, "evoprune", 64, "difference")
    assert gaps["VQAv2"] == pytest.approx(1.0) and gaps["MME"] == pytest.approx(-10.0)
    assert gaps["MM-Vet"] == pytest.approx(0.0) and gaps["pre-LLM"] is None
    ours, theirs = row(one, "evoprune", 64), row(one, "evoprune", 64, "paper")
    assert ours["Acc."] == pytest.approx(theirs["Acc."] + (1.0 - 0.5) / 4, abs=0.07)  # the paper's formula
    assert ours["mean"] == pytest.approx(ours["Acc."] * 4 / 5)
    assert theirs["mean"] == pytest.approx(72.9 * 4 / 5, abs=0.06)  # from the printed entries
    assert ours["Rel."] == pytest.approx(100 * ours["Acc."] / 76.5) and ours["mean of ratios"] != ours["Rel."]
    full = row(one, FULL, None)
    assert full["Rel."] == full["mean of ratios"] == 100 and row(one, FULL, None, "paper")["mean"] == pytest.approx(
        61.2
    )


def test_what_was_not_measured_or_refused_is_said(one: paper.Rendered) -> None:
    place = one.headings.index("VQAv2")
    ours = [cells for cells in one.rows if cells[0] == "dart" and cells[1] == "64"]
    assert ours[0][place] == "not measured" and ours[0][2] == "ours"
    assert "dart 64 was refused: too few layers" in one.notes
    assert all(row(one, "cdpruner", 128)[name] is None for name in ("VQAv2", "overall", "Acc.", "Rel."))
    assert any("divides by four" in note for note in one.notes)
    assert row(one, "cdpruner", 128, "paper")["overall"] == 0.91


def test_the_text_has_the_papers_digits(one: paper.Rendered) -> None:
    lines = [cells for cells in one.rows if cells[2] == "paper"]
    assert lines[0][3:11] == ("78.5", "1508", "61.8", "58.1", "32.2", "1.00", "1.00", "1.00")
    assert next(cells for cells in one.rows if cells[2] == "difference" and cells[4] == "-10")[3] == "+1.0"
    markdown = one.markdown().splitlines()
    assert markdown[2].startswith("| arm | kept | line | VQAv2 |") and len(markdown) > len(one.rows) + 4


def test_a_benchmark_of_many_tasks_is_their_mean_or_nothing() -> None:
    names = [f"mvbench_{i}" for i in range(20)]
    tasks = {name: [entry(Arm(FULL), 0.1, metrics={"mvbench_accuracy": float(i)})] for i, name in enumerate(names)} | {
        "videomme_w_subtitle": [entry(Arm(FULL), 0.9, metrics={"videomme_perception_score": 90.0})]
    }
    full = row(render("table2", summary(tasks)), FULL, None)
    assert full["MVBench"] == pytest.approx(9.5) and full["Video-MME"] is None and full["mean"] is None
    del tasks["mvbench_3"]
    assert row(render("table2", summary(tasks)), FULL, None)["MVBench"] is None


def test_columns_within_a_benchmark_count_only_their_kinds() -> None:
    kinds = {"S2E": [0.5, 10], "T2A": [1.0, 30], "TOS": [0.25, 8]}
    videomme = {"short: Counting": [1.0, 1], "short: OCR": [0.0, 3], "long: OCR": [0.5, 2]}
    tasks = {
        "longvideobench_val_v": [entry(Arm(FULL), 0.7, metrics={"lvb_acc": 0.56}, kinds=kinds)],
        "videomme": [entry(Arm(FULL), 0.7, metrics={"videomme_perception_score": 59.7}, kinds=videomme)],
    }
    full = row(render("table2", summary(tasks)), FULL, None)
    assert full["LongVideoBench"] == pytest.approx(56.0)
    assert full["perception"] == pytest.approx(87.5) and full["relation"] == pytest.approx(25.0)
    assert full["short"] == pytest.approx(25.0) and full["medium"] is None and full["long"] == pytest.approx(50.0)


def test_an_embedded_model_stands_beside_the_paper_without_a_difference() -> None:
    arms = [entry(line.arm, 0.8) for line in lines("table3", "tiny-video") if line.arm.seed in (None, 0)]
    arms = [one | {"arm": {**one["arm"], "seed": None}} for one in arms]
    arms[1]["accuracy"][0] = 0.4
    found = render("table3", summary({"tiny_clips": arms}, "tiny-video"))
    assert {one["line"] for one in found.values} == {"ours", "paper"}
    assert "no difference is taken" in found.notes[0] and "LLaVA-Video-7B-Qwen2" in found.notes[0]
    ours = row(found, "evoprune without both", 9)
    assert ours["tiny_clips"] == pytest.approx(40.0) and ours["mean of ratios"] == pytest.approx(50.0)
    assert "MVBench" not in ours and row(found, "evoprune without both", 64, "paper")["MVBench"] == 54.6
    place = found.headings.index("MVBench")
    assert all(cells[place] == "" for cells in found.rows if cells[2] == "ours")  # not a thing to be measured here
    assert [one["arm"] for one in found.values].count("random") == 1  # one row for its seeds


def test_differences_within_our_interval_are_marked() -> None:
    """Ours is 0.57 in 0.55 to 0.59, beside 56.0 of LongVideoBench; a metric that is no share has no interval."""

    def arms(accuracy: list[float], **metrics: float) -> list[dict[str, Any]]:
        return [entry(Arm(FULL), 0.5, metrics=metrics) | {"accuracy": accuracy}]

    tasks = {
        "longvideobench_val_v": arms([0.57, 0.55, 0.59], lvb_acc=0.57),
        "videomme": arms([0.57, 0.5, 0.65], videomme_perception_score=61.0),
    }
    found = render("table3", summary(tasks))
    assert row(found, FULL, None, "difference")["within"] == ["LongVideoBench"]
    text = next(cells for cells in found.rows if cells[2] == "difference")
    assert text[4:6] == ("+1.0 ~", "+1.3")
    tasks["longvideobench_val_v"] = arms([0.57, 0.565, 0.59], lvb_acc=0.57)
    assert row(render("table3", summary(tasks)), FULL, None, "difference")["within"] == []


def test_what_weakens_a_table_is_said_below_it() -> None:
    found = summary({"tiny_scenes": []}, "tiny")
    found["configuration"]["limit"] = 100
    found |= {"sanity": False, "missing": [{"task": "tiny_scenes", "keep": 74, "method": "random", "error": None}] * 2}
    notes = render("table3", found).notes
    assert "Only the first 100 questions of each task were asked." in notes
    assert "No sanity baselines: random 74. What a method adds to them is not known." in notes
    assert "Times: not measured (--latency)." in notes
    whole = " ".join(render("table3", summary({"tiny_scenes": []}, "tiny") | {"sanity": True}).notes)
    assert "Only the first" not in whole and "sanity" not in whole


def test_another_model_of_the_user_is_named() -> None:
    found = render("table3", summary({}, "somebody/else"))
    assert "somebody/else" in found.notes[0] and "LLaVA-Video-7B-Qwen2" in found.notes[0]
    assert any(one["line"] == "difference" for one in found.values)


def test_figure_four_has_seconds_that_are_not_subtracted() -> None:
    arm = next(line.arm for line in lines("fig4") if line.key == ("skip", 64))
    base = {"kind": "native", "error": None, "times": {"encoder": {"median": 4.0}, "ttft": {"median": 8.0}}}
    mine = {"arm": arm.to_dict(), "error": None, "times": {"encoder": {"median": 2.0}, "ttft": {"median": 6.0}}}
    latency = {
        "configuration": {"machine": "a GPU", "repeats": 3, "batch": 1, "frames": 64, "picture": [480, 640]},
        "runs": [{"clock": "seconds", "bases": [base], "arms": [mine]}],
    }
    tasks = {"videomme": [entry(arm, 0.6, metrics={"videomme_perception_score": 61.0})]}
    found = render("fig4", summary(tasks), latency)
    ours = row(found, "evoprune skip", 64)
    assert ours["encoding, s"] == 2.0 and ours["encoding, of unpruned"] == 0.5 and ours["overall"] == 0.75
    gaps = row(found, "evoprune skip", 64, "difference")
    assert "encoding, s" not in gaps and gaps["Video-MME"] == pytest.approx(0.56)
    assert any("a GPU, wall clock" in note and "64 frames of 480 x 640" in note for note in found.notes)
    decreasing = row(found, "evoprune decreasing:1.0", 16, "paper")
    assert decreasing["MVBench"] == 41.49 and decreasing["Video-MME"] is None


def test_a_table_runs_on_the_embedded_model_from_cells_to_text(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="intervals need the extra 'eval'")
    runner = Embedded("tiny", limit=6)
    with Folder(tmp_path / "results", runner.configuration()) as folder:
        folder.begin({})
        assert sweep(runner, cells("fig4", "tiny"), folder) == []
        found = render("fig4", summarise(folder))
    assert "refused" not in " ".join(found.notes)  # every schedule reaches its budget
    ours = [one for one in found.values if one["line"] == "ours"]
    assert len(ours) == 1 + 3 * (6 + 3) and all(0 <= one["tiny_scenes"] <= 100 for one in ours)
    assert row(found, FULL, None)["mean of ratios"] == 100
    text = found.markdown()
    assert "| evoprune first:6 | 19 | ours |" in text and "|  | 16 | paper |  | " in text


def score(name: str, value: float, arm: Arm) -> dict[str, Any]:
    return entry(arm, 0.5, metrics={name: value})


def table1(*arms: Arm) -> dict[str, Any]:
    """VQAv2 alone, with 0.5 for the unpruned model and 0.1, 0.2, ... for the arms."""
    values = [score("exact_match", 0.5, Arm(FULL))]
    values += [score("exact_match", (place + 1) / 10, arm) for place, arm in enumerate(arms)]
    return summary({"vqav2_val": values})


def test_an_arm_with_other_settings_does_not_stand_for_the_one_that_is_there() -> None:
    ablation, exact = Arm("evoprune", 64, {"critical_ratio": 0.0}), Arm("evoprune", 64)
    found = render("table1", table1(ablation, exact))
    assert row(found, "evoprune", 64)["VQAv2"] == pytest.approx(20)
    assert not any("critical_ratio" in note for note in found.notes)


def test_further_settings_are_named_where_they_leave_one_arm() -> None:
    more = {"positions": "original"}
    found = render("table1", table1(Arm("evoprune", 64, more), Arm("dart", 64, more)))
    assert row(found, "evoprune", 64)["VQAv2"] == pytest.approx(10)
    assert "Run with positions=original, which the table does not ask for: dart 64, evoprune 64." in found.notes


def test_several_arms_that_may_be_meant_are_none() -> None:
    arms = Arm("evoprune", 64, {"critical_ratio": 0.0}), Arm("evoprune", 64, {"positions": "original"})
    times = [{"arm": arm.to_dict(), "error": None, "times": {"ttft": {"median": 1.0}}} for arm in arms]
    base = {"kind": "native", "error": None, "times": {"ttft": {"median": 2.0}}}
    latency = {
        "configuration": {"machine": "a GPU", "repeats": 3, "batch": 1, "frames": None, "picture": [480, 640]},
        "runs": [{"clock": "seconds", "bases": [base], "arms": times}],
    }
    found = render("table1", table1(*arms), latency)
    ours = row(found, "evoprune", 64)
    assert ours["VQAv2"] is None and ours["overall"] is None
    (said,) = [note for note in found.notes if note.startswith("evoprune 64 is not measured")]
    assert all(arm.slug in said for arm in arms)
    alone = render("table1", table1(arms[0]), latency)
    assert row(alone, "evoprune", 64)["overall"] == 0.5


def test_one_token_is_not_the_share_of_all() -> None:
    assert row(render("table1", table1(Arm("evoprune", 64.0))), "evoprune", 64)["VQAv2"] is None


def test_the_text_tower_is_no_part_of_a_line() -> None:
    found = render("table1", table1(Arm("cdpruner", 64, {"text_tower": "somebody/clip"})))
    assert row(found, "cdpruner", 64)["VQAv2"] == pytest.approx(10)
    assert "Run with text_tower=somebody/clip, which the table does not ask for: cdpruner 64." in found.notes


def test_times_of_videos_are_no_times_of_pictures() -> None:
    arm = Arm("evoprune", 64)
    mine = {"arm": arm.to_dict(), "error": None, "times": {"ttft": {"median": 1.0}}}
    base = {"kind": "native", "error": None, "times": {"ttft": {"median": 2.0}}}
    told = {"machine": "a GPU", "repeats": 3, "batch": 1, "frames": 64, "picture": [480, 640]}
    latency = {"configuration": told, "runs": [{"clock": "seconds", "bases": [base], "arms": [mine]}]}
    found = render("table1", table1(arm), latency)
    assert row(found, "evoprune", 64)["overall"] is None
    assert any("a video of 64 frames of 480 x 640, batch 1, which this table does not show" in n for n in found.notes)
    assert row(render("table2", table1(arm), latency), "evoprune", 64)["overall"] == 0.5


def test_our_tasks_splits_and_judges_are_named_beside_differences() -> None:
    for table, words in (
        ("table1", ("vqav2_val, split validation", "mmbench_en_dev_static, split dev", "MM-Vet is mmvet, split test, "
                    "answers scored by a judge model")),
        ("table2", ("MVBench is mvbench, split train", "longvideobench_val_v, split validation", "videomme")),
    ):  # fmt: skip
        (said,) = [note for note in render(table, summary({})).notes if note.startswith("Ours: ")]
        assert all(word in said for word in words)
    assert not any(note.startswith("Ours: ") for note in render("table1", summary({}, "tiny")).notes)
