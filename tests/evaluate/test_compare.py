"""Two sample files of lmms-eval, compared in pairs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from evoprune.evaluate.catalogue.questions import group
from evoprune.evaluate.compare import compare, rich_table, table
from evoprune.evaluate.compare.sample_files import groups

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")


def lines(scores, *, soft=False, groups=None):
    """Lines as lmms-eval logs them: the same doc_hash for all, filtered_resps flattened, the task's own metric."""
    for i, score in enumerate(scores):
        metric = {"score": score, **({} if groups is None else {"videoID": groups[i]})}
        yield {
            "doc_id": i,
            "doc_hash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
            "target": f"word {i % 3}",
            "input": f"What is in picture {i}?",
            "filtered_resps": f"Word {i % 3}" if score >= 0.5 else "nothing",
            "token_counts": [{"output_tokens": 2}],
            "exact_match" if soft else "some_score": score if soft else metric,
        }


def write(folder, name, some, task="mine"):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_samples_{task}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in some), encoding="utf-8")
    return path


FIRST = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
SECOND = [0, 0, 0, 0, 0, 0, 0, 1, 1, 0]  # loses 0 to 6, wins 8


def test_difference_of_two_runs(tmp_path):
    a, b = write(tmp_path, "a", lines(FIRST)), write(tmp_path, "b", lines(SECOND))
    found = compare(a, b)
    json.dumps(found, allow_nan=False)
    assert found["task"] == "mine" and found["questions"] == found["groups"] == 10
    assert found["accuracy"][0][0] == 0.8 and found["accuracy"][1][0] == 0.2
    value, low, high = found["difference"]
    assert value == pytest.approx(-0.6) and low < value < high
    assert found["relative"][0] == pytest.approx(0.25)
    assert found["mcnemar"] == {"only_first": 7, "only_second": 1, "p": pytest.approx(2 * 9 / 2**8)}
    assert found["p"] == pytest.approx(2 * 9 / 2**8)  # each question for itself: the same test
    assert found["lost"] == [0, 1, 2, 3, 4, 5, 6] and found["won"] == [8]
    assert found["same_answers"][0] == pytest.approx(0.2)
    back = compare(b, a)
    assert back["difference"] == pytest.approx([-value, -high, -low]) and back["won"] == found["lost"]


def test_a_run_does_not_differ_from_itself(tmp_path):
    path = write(tmp_path, "a", lines(FIRST))
    found = compare(path, path)
    assert found["difference"][0] == 0 and found["relative"][0] == 1
    for value, low, high in (found["difference"], found["relative"]):
        assert low <= value <= high  # ten questions that agree do not show that all would
    assert found["p"] == 1 and found["mcnemar"] == {"only_first": 0, "only_second": 0, "p": 1.0}
    assert found["same_answers"][0] == 1 and found["lost"] == found["won"] == []


def test_lines_are_paired_whatever_their_order(tmp_path):
    a, b = write(tmp_path, "a", lines(FIRST)), write(tmp_path, "b", lines(SECOND))
    turned = write(tmp_path, "c", reversed(list(lines(SECOND))))
    assert {**compare(a, b), "files": None} == {**compare(a, turned), "files": None}


def test_questions_about_one_video_are_a_group(tmp_path):
    groups = ["v1"] * 7 + ["v2", "v3", "v3"]
    a = write(tmp_path, "a", lines(FIRST, groups=groups), "videomme")
    b = write(tmp_path, "b", lines(SECOND, groups=groups), "videomme")
    found = compare(a, b)
    assert found["groups"] == 3 and found["grouped"] and len(table(found).notes) == 2
    assert found["p"] == 1.0 > found["mcnemar"]["p"]  # two of the videos differ: two coins


@pytest.mark.parametrize(
    ("task", "metric", "fields", "doc"),
    [
        ("mmbench_en_dev_static", "gpt_eval_score", [{"index": 5 + 1_000_000 * i} for i in range(4)], "index"),
        ("mme", "mme_perception_score", [{"question_id": f"a{i // 2}.png"} for i in range(4)], "question_id"),
        ("videomme", "videomme_perception_score", [{"videoID": f"v{i // 3}"} for i in range(4)], "videoID"),
        ("tiny_scenes", "accuracy", [{"group": f"s{i // 2}"} for i in range(4)], "group"),
    ],
)
def test_groups_are_those_of_a_sweep(task, metric, fields, doc):
    some = [{"doc_id": i, metric: {**one, "score": 1}} for i, one in enumerate(fields)]
    assert groups(task, some) == [group(task, {doc: one[doc]}) for one in fields]
    assert len(set(groups(task, some))) < len(some)


def test_the_number_of_a_question_is_no_group(tmp_path):
    """POPE's and VQAv2's metrics name the question and not the picture, by which a sweep groups them."""
    for task in ("pope", "vqav2_val", "mine", "refcoco_bbox_val"):
        assert groups(task, [{"some_score": {"question_id": str(i), "score": 1}} for i in range(3)]) is None
    path = write(tmp_path, "a", lines(FIRST))
    found = compare(path, path)
    assert not found["grouped"] and found["groups"] == 10
    assert "taken as independent" in table(found).notes[2]


def test_soft_scores_have_no_mcnemar(tmp_path):
    a = write(tmp_path, "a", lines([0.9, 0.6, 0.3, 1.0], soft=True))
    b = write(tmp_path, "b", lines([0.9, 0.3, 0.6, 0.6], soft=True))
    found = compare(a, b)
    assert found["mcnemar"] is None and found["difference"][0] == pytest.approx(-0.1)
    assert found["lost"] == [1] and found["won"] == [2]
    assert "scores are soft" in table(found).notes[-1]


def test_the_scores_are_the_tasks_own(tmp_path):
    """Not an exact match with the target, by which lmms-eval's --baseline has a run differ from itself."""
    some = [{**line, "filtered_resps": "Yes."} for line in lines([1, 0])]
    assert compare(*[write(tmp_path, "a", some)] * 2)["accuracy"][0][0] == 0.5


def test_answers_are_equal_but_for_case_and_blanks(tmp_path):
    a = write(tmp_path, "a", lines([1, 1]))
    loud = [{**line, "filtered_resps": f" {line['filtered_resps']}\n".upper()} for line in lines([1, 1])]
    b = write(tmp_path, "b", loud)
    assert compare(a, b)["same_answers"][0] == 1


def test_exactly_a_half_is_right(tmp_path):
    a, b = write(tmp_path, "a", lines([0.5, 0.4], soft=True)), write(tmp_path, "b", lines([0.4, 0.5], soft=True))
    assert (compare(a, b)["lost"], compare(a, b)["won"]) == ([0], [1])


def test_an_answer_is_scored_as_before_it_was_logged(tmp_path):
    """The file holds a text where lmms-eval had a list of one; a rule that takes the first must not take a letter."""
    pytest.importorskip("lmms_eval", reason="LongVideoBench is scored by lmms-eval's own parser")
    metric = {"lvb_acc": {"answer": "B", "parsed_pred": "B", "duration_group": 60}}
    some = [{**line, "lvb_acc": metric["lvb_acc"], "filtered_resps": "The answer is (B)."} for line in lines([1])]
    for line in some:
        del line["some_score"]
    path = write(tmp_path, "a", some, task="longvideobench_val_v")
    assert compare(path, path)["accuracy"][0][0] == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda some: some[:-1], "1 are in the first alone, 0 in the second alone"),
        (lambda some: [{**some[0], "input": "Another prompt"}, *some[1:]], "the same prompts, targets and limit"),
        (lambda some: [{**some[0], "target": "another"}, *some[1:]], "hold different questions"),
        (lambda some: [some[0], *some], "holds 1 questions twice"),
        (lambda some: [], "holds no samples"),
        (lambda some: [{"id": 1}], "holds no samples"),
        (lambda some: [[1]], "holds no samples"),
        (lambda some: [{**line, "some_score": "good"} for line in some], "no score of each answer"),
        (lambda some: [{**line, "some_score": {"score": 7}} for line in some], "no number from 0 to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, words):
    some = list(lines(FIRST))
    with pytest.raises(ValueError, match=words):
        compare(write(tmp_path, "a", some), write(tmp_path, "b", change(some)))


def test_other_files_are_refused(tmp_path):
    a = write(tmp_path, "a", lines(FIRST))
    with pytest.raises(ValueError, match=r"of the task mine and .* of other"):
        compare(a, write(tmp_path, "b", lines(FIRST), task="other"))
    for name, text, words in (
        ("results.json", "{}", "does not say its task"),
        ("x_samples_mine.json", "{}", "does not say its task"),
        ("x_samples_mine.jsonl", "{", "no JSON in lines"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            compare(a, tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read"):
        compare(tmp_path / "absent_samples_mine.jsonl", a)


def test_table_names_the_flipped_questions(tmp_path):
    a, b = write(tmp_path, "a", lines([1] * 30)), write(tmp_path, "b", lines([0] * 29 + [1]))
    found = compare(a, b)
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(rich_table(found))
    text = console.file.getvalue()
    assert "mine: 30 questions in 30 groups" in text
    assert "29 (questions 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)" in text
    assert "-0.967 [" in text and str(a) in text.replace("\n", "")
