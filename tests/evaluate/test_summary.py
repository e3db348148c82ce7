"""The summary of a folder of known answers, against a slow recomputation from its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evoprune.evaluate.arms import FULL, Arm
from evoprune.evaluate.folder import Folder, FolderError
from evoprune.evaluate.records import Answer, Outcome
from evoprune.evaluate.statistics import RESAMPLES
from evoprune.evaluate.statistics.paired_tests import FLOOR, corrected
from evoprune.evaluate.summary import rounded, summarise
from evoprune.evaluate.summary.overall import relative_accuracies
from evoprune.evaluate.summary.rows import normalised

from .results_case import CONFIGURATION, SCORES, at, bits, build, outcome, question, small

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    return small(tmp_path_factory.mktemp("results") / "small")


@pytest.fixture(scope="module")
def summary(folder):
    return summarise(folder)


def told(value) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def find(summary, task, method, keep):
    arms = summary["tasks"][task]["arms"]
    (found,) = [arm for arm in arms if (arm["arm"]["method"], arm["arm"]["keep"]) == (method, keep)]
    return found


# Against the files


def lines(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def literal(folder: Path, task: str):
    """By method and budget: scores and texts of each seed, read from the files without the library."""
    found = {}
    for path in sorted((folder / "cells" / task).glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["error"] is None:
            answers = lines(folder / "answers" / task / f"{path.stem}.jsonl")
            found.setdefault((cell["arm"]["method"], cell["arm"]["keep"]), []).append(answers)
    return found


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("task", list(SCORES))
def test_values_equal_a_slow_recomputation(folder, summary, task):
    asked = lines(folder.path / "questions" / f"{task}.jsonl")
    cells = literal(folder.path, task)
    scores = {
        name: [mean([seed[i]["score"] for seed in seeds]) for i in range(len(asked))] for name, seeds in cells.items()
    }
    full, texts = scores["full", None], [answer["text"] for answer in cells["full", None][0]]
    assert len(cells) == sum(arm["error"] is None for arm in summary["tasks"][task]["arms"]) >= 10
    for (method, keep), seeds in cells.items():
        mine, arm = scores[method, keep], find(summary, task, method, keep)
        assert arm["seeds"] == len(seeds) == (3 if method == "random" else 1)
        assert arm["accuracy"][0] == pytest.approx(mean(mine), abs=1e-6)
        assert arm["empty"] == sum(not answer["text"].strip() for seed in seeds for answer in seed)
        for kind in ("colour", "count"):
            chosen = [score for score, q in zip(mine, asked, strict=True) if q["kind"] == kind]
            assert arm["kinds"][kind] == [pytest.approx(mean(chosen), abs=1e-6), len(chosen)]
        if method == "full":
            assert {arm[name] for name in ("relative", "difference", "loyalty", "p", "q", "rank", "group_a")} == {None}
            continue
        assert arm["relative"][0] == pytest.approx(mean(mine) / mean(full), abs=1e-6)
        assert arm["difference"][0] == pytest.approx(mean(mine) - mean(full), abs=1e-6)
        equal = [a["text"].strip().lower() == b.lower() for seed in seeds for a, b in zip(seed, texts, strict=True)]
        assert arm["loyalty"][0] == pytest.approx(mean(equal), abs=1e-6)
        if method == "random":
            assert arm["mcnemar"] is None and arm["ahead_of_random"] is None
        else:
            assert arm["ahead_of_random"][0] == pytest.approx(mean(mine) - mean(scores["random", keep]), abs=1e-6)
            assert arm["mcnemar"]["only_full"] == sum(a > b for a, b in zip(full, mine, strict=True))
            assert arm["mcnemar"]["only_pruned"] == sum(b > a for a, b in zip(full, mine, strict=True))
        down = scores["downsample", keep]
        hard = [score for score, a, b in zip(mine, full, down, strict=True) if a == 1 and b == 0]
        if method == "downsample":
            assert arm["group_a"] is None
        else:
            assert arm["group_a"]["questions"] == len(hard)
            assert arm["group_a"]["accuracy"][0] == pytest.approx(mean(hard), abs=1e-6)


def test_intervals_equal_a_slow_bootstrap(folder, summary):
    """With the same draws, in loops: of accuracy, relative accuracy, and accuracy ahead of random."""
    cells = literal(folder.path, "shapes")
    groups = [q["group"] for q in lines(folder.path / "questions" / "shapes.jsonl")]
    mine, full = ([answer["score"] for answer in cells[name][0]] for name in (("evoprune", 4), ("full", None)))
    random = [mean([seed[i]["score"] for seed in cells["random", 4]]) for i in range(12)]
    labels = sorted(set(groups))
    found = {"accuracy": [], "relative": [], "ahead_of_random": []}
    for drawn in np.random.default_rng(0).integers(0, len(labels), (RESAMPLES, len(labels))).tolist():
        rows = [i for number in drawn for i, group in enumerate(groups) if group == labels[number]]
        a, b, c = (mean([values[i] for i in rows]) for values in (mine, full, random))
        found["accuracy"].append(a)
        found["relative"].append(a / b if b else np.inf)
        found["ahead_of_random"].append(a - c)
    arm = find(summary, "shapes", "evoprune", 4)
    for name, values in found.items():
        assert arm[name][1:] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=2e-6), name


def test_known_numbers(summary):
    arm = find(summary, "shapes", "evoprune", 16)
    assert arm["accuracy"][0] == 0.75 and arm["relative"][0] == 0.9
    assert arm["mcnemar"] == {"only_full": 1, "only_pruned": 0, "p": 1.0}
    assert arm["group_a"]["questions"] == 4 and arm["group_a"]["accuracy"][0] == 0.75
    assert arm["tokens"] == 16.0 and arm["metrics"] == {"exact_match": 0.75}
    assert find(summary, "shapes", "downsample", 4)["mcnemar"]["p"] == pytest.approx(2 / 2**8, rel=1e-3)
    # Pictures 0, 1, 3, 4 are lost by two questions each: 2 of 2^4 patterns of signs go as far.
    assert find(summary, "shapes", "downsample", 4)["p"] == 2 / 2**4
    assert find(summary, "shapes", "evoprune", 4)["empty"] == 1


def test_corrected_p_takes_all_arms_of_a_task_as_one_family(summary):
    for task in summary["tasks"].values():
        tested = [arm for arm in task["arms"] if arm["p"] is not None]
        assert len(tested) == sum(arm["error"] is None for arm in task["arms"]) - 1
        assert [arm["q"] for arm in tested] == pytest.approx(corrected([arm["p"] for arm in tested]), rel=1e-3)


def test_few_questions_give_no_rank(summary):
    for task in summary["tasks"].values():
        for arm in task["arms"]:
            others = [one for one in task["arms"] if one["rank"] and one["arm"]["keep"] == arm["arm"]["keep"]]
            assert arm["rank"] in (None, [1, len(others)])


def test_overall_names_both_relative_accuracies(summary):
    by_arm = {(one["name"], one["arm"]["keep"]): one for one in summary["overall"]}
    assert ("fastv", 4) not in by_arm and ("frames", 16) not in by_arm  # not on both tasks
    one = by_arm["evoprune", 16]
    # 9 of 10 and 5 of 6 right; 0.75 and 0.625 against 10/12 and 6/8.
    assert one["mean_of_ratios"] == pytest.approx((0.9 + 5 / 6) / 2, abs=1e-6)
    assert one["ratio_of_means"] == pytest.approx((0.75 + 0.625) / (10 / 12 + 0.75), abs=1e-6)
    assert one["mean_accuracy"] == pytest.approx((0.75 + 0.625) / 2)
    assert by_arm["full", None]["mean_of_ratios"] == by_arm["full", None]["ratio_of_means"] == 1.0


def test_relative_accuracies_without_a_right_answer():
    assert relative_accuracies([0.2, 0.4], [0.0, 0.8]) == (None, pytest.approx(0.75))
    assert relative_accuracies([0.0], [0.0]) == (None, None)
    assert relative_accuracies([], []) == (None, None)


# The same bytes


def test_order_resume_and_run_leave_no_trace(folder, summary, tmp_path):
    other = small(tmp_path / "backwards", backwards=True)
    assert told(summarise(other)) == told(summary)
    assert told(summarise(folder)) == told(summary)
    # A run that was stopped half way, and gone on with by another machine in another order.
    path = tmp_path / "resumed"
    shutil.copytree(folder.path, path)
    lost = sorted((path / "cells" / "shapes").glob("*.json"))[::2]
    for cell in lost:
        cell.unlink()
    assert told(summarise(Folder(path))) != told(summary)
    with Folder(path, CONFIGURATION) as again:
        again.begin({"device": "another", "seconds": 5})
        asked = again.questions("shapes")
        for arm, scores in reversed(SCORES["shapes"]):
            if again.done("shapes", arm):
                continue
            if isinstance(scores, str):
                again.refuse("shapes", arm, scores)
            else:
                tokens = 64.0 if arm.keep is None else float(arm.keep)
                again.write("shapes", arm, outcome(asked, scores, tokens))
        again.write_json("summary.json", {"old": True})
    assert told(summarise(Folder(path))) == told(summary)


def test_a_second_of_a_file_does_not_matter_but_an_answer_does(folder, summary, tmp_path):
    path = tmp_path / "other"
    shutil.copytree(folder.path, path)
    cell = path / "cells" / "shapes" / "grid_16.json"
    cell.write_text(cell.read_text(encoding="utf-8").replace("1.25", "99.5"), encoding="utf-8")
    answers = path / "answers" / "shapes" / "grid_16.jsonl"
    answers.write_text(
        "".join(reversed(answers.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8"
    )
    assert told(summarise(Folder(path))) == told(summary)
    answers.write_text(answers.read_text(encoding="utf-8").replace('"score": 0', '"score": 1', 1), encoding="utf-8")
    assert told(summarise(Folder(path))) != told(summary)


def test_floats_are_rounded_everywhere():
    assert rounded({"a": [1 / 3, 2, True, None, "x"], "b": -1e-9}) == {"a": [0.333333, 2, True, None, "x"], "b": 0.0}
    assert told(rounded(-1e-9)) == "0.0"


# What is not there


def test_sanity_baselines_are_missed(tmp_path, summary):
    assert summary["sanity"] and summary["missing"] == []
    cells = [(Arm(FULL), bits("1111")), *at(16, {"random": "1100", "evoprune": "1110", "grid": "1010"})]
    cells.append((Arm("downsample", 16), "pictures of this model have one size"))
    found = summarise(build(tmp_path / "image", {"shapes": cells}))
    assert not found["sanity"]
    assert found["missing"] == [
        {"task": "shapes", "keep": 16, "method": "downsample", "error": "pictures of this model have one size"}
    ]
    assert find(found, "shapes", "evoprune", 16)["group_a"] is None
    # A video task is one by its name, or by one arm with fewer frames.
    found = summarise(build(tmp_path / "video", {"tiny_clips": cells}))
    assert [gap["method"] for gap in found["missing"]] == ["downsample", "frames"]
    cells = [(Arm(FULL), bits("11")), *at(16, {"evoprune": "11", "frames": "10"}), *at(0.5, {"evoprune": "11"})]
    found = summarise(build(tmp_path / "clips", {"clips": cells}))
    assert [(gap["keep"], gap["method"]) for gap in found["missing"]] == [
        *((0.5, method) for method in ("random", "grid", "downsample", "frames")),
        *((16, method) for method in ("random", "grid", "downsample")),
    ]


def test_an_unfinished_folder_gives_what_it_has(tmp_path):
    found = summarise(build(tmp_path / "no_full", {"shapes": at(4, {"evoprune": "1101", "random": "1000/0001"})}))
    arm = find(found, "shapes", "evoprune", 4)
    assert arm["accuracy"][0] == 0.75 and arm["ahead_of_random"][0] == 0.5
    assert {arm[name] for name in ("relative", "difference", "mcnemar", "p", "q", "loyalty", "group_a")} == {None}
    assert find(found, "shapes", "random", 4)["seeds"] == 2
    assert found["overall"][0]["mean_of_ratios"] is None and found["overall"][0]["mean_accuracy"] == 0.75
    with Folder(tmp_path / "asked", CONFIGURATION) as asked:
        asked.ask("shapes", [question(0)])
    found = summarise(Folder(tmp_path / "asked"))
    assert (
        found["tasks"]["shapes"] == {"questions": 1, "groups": 1, "p_floor": FLOOR, "arms": []}
        and found["overall"] == []
    )


def test_refused_arms_keep_their_reason(summary):
    arm = find(summary, "shapes", "fastv", 4)
    assert arm["error"].startswith("fastv keeps at least") and arm["accuracy"] is None and arm["rank"] is None
    assert set(arm) == set(find(summary, "shapes", "fastv", 16))


def test_random_with_one_refused_seed_is_the_mean_of_the_others(tmp_path):
    cells = [(Arm(FULL), bits("1111")), (Arm("random", 4, seed=0), bits("1100")), (Arm("random", 4, seed=1), "no")]
    arm = find(summarise(build(tmp_path / "r", {"shapes": cells})), "shapes", "random", 4)
    assert (arm["seeds"], arm["error"], arm["accuracy"][0], arm["arm"]["seed"]) == (1, None, 0.5, None)
    arm = find(summarise(build(tmp_path / "s", {"shapes": cells[2:]})), "shapes", "random", 4)
    assert arm["error"] == "no"


def test_group_a_without_questions(tmp_path):
    cells = [(Arm(FULL), bits("1110")), *at(4, {"downsample": "1111", "evoprune": "1100"})]
    arm = find(summarise(build(tmp_path / "r", {"shapes": cells})), "shapes", "evoprune", 4)
    assert arm["group_a"] == {"questions": 0, "accuracy": None}


@pytest.mark.parametrize("text", ["0", "1", "00", "11", "1111", "0000"])
def test_all_equal_and_tiny(tmp_path, text):
    cells = [(Arm(FULL), bits(text)), *at(4, dict.fromkeys(("random", "grid", "downsample", "evoprune"), text))]
    found = summarise(build(tmp_path / "r", {"shapes": cells}))
    told(found)
    arm = find(found, "shapes", "evoprune", 4)
    groups = (len(text) + 1) // 2
    rest = pytest.approx(1 - 0.025 ** (1 / groups), abs=1e-6)  # of groups not asked, whatever these few say
    assert arm["difference"][0] == 0 and -arm["difference"][1] == arm["difference"][2] == rest
    assert arm["p"] == arm["q"] == 1
    assert (arm["relative"] is None) == ("1" not in text or groups < 2)
    assert arm["mcnemar"] == {"only_full": 0, "only_pruned": 0, "p": 1.0}
    assert arm["rank"] == [1, 4] and arm["ahead_of_random"] == arm["difference"] and arm["loyalty"][0] == 1


def test_no_question_at_all(tmp_path):
    found = summarise(build(tmp_path / "r", {"shapes": [(Arm(FULL), []), *at(4, {"evoprune": "", "random": ""})]}))
    told(found)
    assert find(found, "shapes", "evoprune", 4)["accuracy"] is None


def test_soft_scores(tmp_path):
    """VQAv2 gives 0.3, 0.6, 0.9 and 1: no McNemar, and at least a half is right for group A."""
    cells = [(Arm(FULL), [1.0, 0.6, 0.9, 0.3]), (Arm("downsample", 4), [0.3, 0.3, 0.6, 0.0])]
    cells.append((Arm("evoprune", 4), [0.6, 0.3, 0.9, 0.3]))
    arm = find(summarise(build(tmp_path / "r", {"shapes": cells})), "shapes", "evoprune", 4)
    assert arm["mcnemar"] is None and arm["accuracy"][0] == 0.525
    assert arm["group_a"]["questions"] == 2 and arm["group_a"]["accuracy"][0] == pytest.approx(0.45)


def test_exactly_a_half_is_right(tmp_path):
    cells = [
        (Arm(FULL), [0.5, 0.5, 0.4]),
        (Arm("downsample", 4), [0.4, 0.5, 0.4]),
        (Arm("evoprune", 4), [1.0, 0.0, 0.0]),
    ]
    arm = find(summarise(build(tmp_path / "r", {"shapes": cells})), "shapes", "evoprune", 4)
    assert arm["group_a"]["questions"] == 1 and arm["group_a"]["accuracy"][0] == 1.0


def test_small_p_values_are_not_rounded_to_nothing(tmp_path):
    cells = [(Arm(FULL), bits("1" * 64)), *at(4, {"evoprune": "0" * 64, "grid": "0" * 64})]
    found = summarise(build(tmp_path / "r", {"shapes": cells}))
    assert find(found, "shapes", "evoprune", 4)["mcnemar"]["p"] == float(f"{2 / 2**64:.4g}") > 0
    assert find(found, "shapes", "evoprune", 4)["p"] == 2 / 10000  # no pattern of 9999 goes as far, and that seen


def test_a_baseline_without_settings_goes_before_one_with(tmp_path):
    cells = [(Arm(FULL), bits("11")), (Arm("downsample", 4, {"filter": "box"}, label="a"), bits("00"))]
    cells += [(Arm("downsample", 4), bits("10")), (Arm("downsample", 4, {"filter": "box"}, label="z"), bits("00"))]
    found = summarise(build(tmp_path / "r", {"shapes": [*cells, (Arm("evoprune", 4), bits("11"))]}))
    assert find(found, "shapes", "evoprune", 4)["group_a"]["questions"] == 1


def test_same_method_with_other_settings_is_another_row_and_1_token_is_not_all(tmp_path):
    cells = [(Arm(FULL), bits("1111")), (Arm("fastv", 1), bits("1000")), (Arm("fastv", 1.0), bits("1111"))]
    cells += [(Arm("fastv", 1, {"layer": 3}), bits("1100")), (Arm("fastv", 1, label="mine"), bits("0000"))]
    arms = summarise(build(tmp_path / "r", {"shapes": cells}))["tasks"]["shapes"]["arms"]
    assert sorted((arm["name"], repr(arm["arm"]["keep"]), arm["accuracy"][0]) for arm in arms[1:]) == [
        ("fastv", "1", 0.25), ("fastv", "1", 0.5), ("fastv", "1.0", 1.0), ("mine", "1", 0.0),
    ]  # fmt: skip
    assert [arm["rank"] for arm in arms if arm["arm"]["keep"] == 1.0 and isinstance(arm["arm"]["keep"], float)] == [
        [1, 1]
    ]


def test_questions_without_a_group_stand_alone(tmp_path):
    with Folder(tmp_path / "r", CONFIGURATION) as folder:
        asked = [type(q)(q.id, q.prompt, q.target, q.kind, "") for q in map(question, range(6))]
        folder.ask("shapes", asked)
        folder.write("shapes", Arm(FULL), outcome(asked, bits("110100"), 64.0))
    assert summarise(Folder(tmp_path / "r"))["tasks"]["shapes"]["groups"] == 6


def test_answers_that_do_not_fit_are_refused(tmp_path):
    with Folder(tmp_path / "r", CONFIGURATION) as folder:
        folder.ask("shapes", [question(0), question(1)])
        folder.write("shapes", Arm(FULL), Outcome((Answer("q0", "red", 1.0), Answer("q7", "red", 1.0))))
    with pytest.raises(FolderError, match="delete its file under cells/"):
        summarise(Folder(tmp_path / "r"))
    for score, words in ((2.0, "a score is 2.0"), (float("nan"), "a score is nan")):
        path = tmp_path / f"r{score}"
        build(path, {"shapes": [(Arm(FULL), [1.0, 0.0])]})
        file = path / "answers" / "shapes" / "full.jsonl"
        bad = json.dumps(score)
        file.write_text(file.read_text(encoding="utf-8").replace('"score": 1', f'"score": {bad}'), encoding="utf-8")
        with pytest.raises(FolderError, match=words):
            summarise(Folder(path))


def test_loyalty_ignores_case_and_blanks():
    assert normalised("  Two\n red\tCATS ") == normalised("two red cats") != normalised("two red cats.")


# Several settings in one folder


def test_a_baseline_has_the_settings_of_what_is_compared_with_it(tmp_path):
    original = {"positions": "original"}
    cells = [(Arm(FULL), bits("1111")), (Arm("evoprune", 4), bits("1100"))]
    cells += [(Arm("evoprune", 4, original), bits("1110")), (Arm("random", 4, seed=0), bits("0000"))]
    cells += [(Arm("random", 4, original, 0), bits("1110"))]
    cells += [(Arm("downsample", 4, {"positions": "contiguous"}), bits("0111"))]  # said, though it is the default
    arms = summarise(build(tmp_path / "r", {"shapes": cells}))["tasks"]["shapes"]["arms"]
    found = {(arm["name"], bool(arm["arm"]["settings"])): arm for arm in arms}
    plain, other = found["evoprune", False], found["evoprune", True]
    assert plain["ahead_of_random"][0] == 0.5 and other["ahead_of_random"][0] == 0
    assert plain["baselines"]["random"] == "random_4" != other["baselines"]["random"]
    assert plain["group_a"]["questions"] == 1 and other["group_a"] is None and "downsample" not in other["baselines"]
    assert {tuple(arm["rank"]) for arm in arms[1:]} == {(1, 5)}  # ranks are of the budget


def test_who_is_told_apart_is_named(tmp_path):
    scores = {"evoprune": "1" * 60, "fastv": "10" * 30, "grid": "01" * 30, "random": "0" * 60}
    cells = [(Arm(FULL), bits("1" * 60)), *at(4, scores), (Arm("tome", 4), "no")]
    found = summarise(build(tmp_path / "r", {"shapes": cells}, size=1))
    named = {
        method: (find(found, "shapes", method, 4)["ahead_of"], find(found, "shapes", method, 4)["behind"])
        for method in (*scores, "tome")
    }
    assert named["evoprune"] == (["fastv_4", "grid_4", "random_4"], [])
    assert named["grid"] == (["random_4"], ["evoprune_4"])
    assert named["random"] == ([], ["evoprune_4", "fastv_4", "grid_4"])
    full = find(found, "shapes", "full", None)
    assert named["tome"] == (full["ahead_of"], full["behind"]) == (None, None)


def test_parts_of_a_benchmark_count_as_one_and_left_out_arms_are_named(tmp_path):
    cells = {
        "mvbench_action_antonym": [(Arm(FULL), bits("11")), *at(4, {"evoprune": "11", "grid": "11"})],
        "mvbench_action_count": [(Arm(FULL), bits("10")), *at(4, {"evoprune": "00", "grid": "00"})],
        "pope": [(Arm(FULL), bits("11")), *at(4, {"evoprune": "10"}), (Arm("grid", 4), "no grid")],
    }
    found = summarise(build(tmp_path / "r", cells))
    assert list(found["benchmarks"]) == ["mvbench", "pope"] and len(found["benchmarks"]["mvbench"]) == 2
    (one,) = [one for one in found["overall"] if one["name"] == "evoprune"]
    assert one["mean_of_ratios"] == pytest.approx((0.5 / 0.75 + 0.5) / 2, abs=1e-6)
    assert one["mean_accuracy"] == 0.5
    assert found["incomplete"] == [
        {"name": "grid", "arm": Arm("grid", 4).to_dict(), "tasks": ["pope"], "error": "no grid"}
    ]


def test_what_is_missing_does_not_depend_on_what_is_installed(tmp_path, monkeypatch):
    cells = [(Arm(FULL), bits("11")), *at(4, {"random": "11", "grid": "11", "downsample": "11"})]
    folder = build(tmp_path / "r", {"activitynetqa": cells, "videomme": cells})
    told_here = told(summarise(folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert told(summarise(folder)) == told_here
    assert [gap["task"] for gap in json.loads(told_here)["missing"]] == ["videomme"]
