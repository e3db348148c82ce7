"""Scores of samples from their metrics alone: what is taken, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from evoprune.evaluate.catalogue import scores

RECORD = {
    "doc_id": 3,
    "doc": {},
    "target": "a",
    "arguments": ["?", 2],
    "resps": [["a"]],
    "filtered_resps": ["a"],
    "token_counts": [None],
    "doc_hash": "x",
}


@pytest.mark.parametrize(
    ("metrics", "score"),
    [
        ({"exact_match": 1.0}, 1.0),
        ({"exact_match": np.float64(0.3)}, 0.3),
        ({"exact_match": True}, 1.0),
        ({"exact_match": 0.6, "submission": {"question_id": 1, "score": 1}}, 0.6),
        ({"mme_perception_score": {"question_id": "a", "category": "count", "score": 0.0}}, 0.0),
        ({"math": {"score": 1.0}, "average": {"score": 1.0}}, 1.0),
        ({"gpt_eval_score": {"question_id": "v1_0", "pred_answer": "x", "score": 0.4}}, 0.4),
        ({"anls": 0.75, "note": "a text"}, 0.75),
    ],
)
def test_the_one_score_is_taken(metrics: dict[str, Any], score: float) -> None:
    assert scores.per_sample("some_task", {**RECORD, **metrics}) == score


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({}, "no score of each answer"),
        ({"note": "a text", "parts": [1, 0]}, "no score of each answer"),
        ({"bleu": 0.1, "rouge": 0.2}, r"disagree \(bleu, rouge\)"),
        ({"points": 7}, "points=7"),
        ({"points": -0.1}, "points=-0.1"),
        ({"points": float("nan")}, "points=nan"),
        ({"points": {"score": 2}}, "points=2"),
    ],
)
def test_anything_else_is_refused_with_the_task(metrics: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        scores.per_sample("some_task", {**RECORD, **metrics})
    assert str(error.value).startswith("some_task")


def test_refcoco_asks_for_half_of_the_union() -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is an extra")

    def found(pred: list[float]) -> float:
        value = {"bbox": [0.0, 0.0, 1.0, 1.0], "pred": pred}
        return scores.per_sample("refcoco_bbox_rec_val", {**RECORD, "refcoco_IoU": value, "refcoco_ACC@0.5": value})

    assert found([0, 0, 1, 0.5]) == 1
    assert found([0, 0, 1, 0.49]) == 0
    assert found([2, 2, 3, 3]) == 0
    assert found([0, 0, -1, 1]) == 0  # a negative area, which makes the union 0


def test_scoring_leaves_the_random_numbers_alone() -> None:
    pytest.importorskip("decord", reason="lmms-eval's LongVideoBench imports it")
    sample = {**RECORD, "filtered_resps": ["no idea"], "lvb_acc": {"parsed_pred": "A", "answer": "A"}}
    random.seed(1)
    before = random.getstate()
    assert scores.per_sample("longvideobench_val_v", sample) == 0
    assert random.getstate() == before
    assert scores.per_sample("longvideobench_val_v", {**sample, "filtered_resps": ["A"]}) == 1


@pytest.mark.parametrize("said", ["A", "a cat", "(A).", "B", "the cat and the dog", ""])
def test_mmbench_rows_add_up_to_its_own_score(said: str) -> None:
    """One row alone is scored as lmms-eval scores a question that has only that row."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is an extra")
    from evoprune.evaluate.tasks.mmbench import static

    row = {
        "index": 4,
        "question": "?",
        "hint": None,
        "source": "x",
        "split": "dev",
        "category": "c",
        "L2-category": "d",
    }
    row |= {"A": "cat", "B": "dog", "C": None, "D": None, "E": "nan", "answer": "A", "prediction": said}
    expected = {"A": 1, "a cat": 1, "(A).": 1}.get(said, 0)
    assert scores.per_sample("mmbench_cn_dev_static", {**RECORD, "gpt_eval_score": row}) == expected
    assert static([row]) == 100 * expected


def test_kinds_and_groups_of_tasks_that_have_none() -> None:
    assert scores.kind("some_task", {"category": "x"}) == ""
    assert scores.group("some_task", {"image_id": 1}) == ""
    assert scores.kind("tiny_scenes", {"kind": "count", "group": "3"}) == "count"
    assert scores.group("tiny_clips", {"kind": "count", "group": "3"}) == "3"
    assert scores.kind("mme", {}) == ""
    # Another benchmark with a name that begins alike has other columns.
    assert scores.group("mme_realworld", {"question_id": "q"}) == ""
    assert scores.group("refcoco_bbox_rec_testA", {"question_id": "9"}) == "9"
