"""The benchmarks' own code in lmms-eval on a few rows made here: known answers, known scores, known metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from evoprune.evaluate.catalogue import scores

pytest.importorskip("lmms_eval", reason="lmms-eval is an extra")

from tests.evaluate.local_tasks import RED, cache, evaluate, write


@dataclass
class Case:
    """Rows of a task, what a model says to them, and what that scores by hand."""

    task: str
    rows: list[dict[str, Any]]
    said: list[str]
    scores: list[float]
    metrics: dict[str, float]
    kinds: list[str] | None = None
    groups: list[str] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def people(*counts: tuple[str, int]) -> list[str]:
    return [text for text, count in counts for _ in range(count)]


def vqav2(number: int, *counts: tuple[str, int]) -> dict[str, Any]:
    answers = [{"answer": text, "answer_id": place} for place, text in enumerate(people(*counts))]
    return {
        "image": RED,
        "question": "What is it?",
        "question_id": number,
        "image_id": number // 2,
        "answer": counts[0][0],
        "answer_type": "other",
        "answers": answers,
    }


def mme(name: str, category: str, answer: str) -> dict[str, Any]:
    question = "Is it red? Please answer yes or no."
    return {"image": RED, "question": question, "question_id": name, "category": category, "answer": answer}


def mmbench(index: int, answer: str) -> dict[str, Any]:
    return {
        "index": index,
        "question": "What is it?",
        "hint": None,
        "A": "a cat",
        "B": "a dog",
        "C": "a cow",
        "D": "a hen",
        "answer": answer,
        "category": "object",
        "L2-category": "perception",
        "source": "here",
        "split": "dev",
        "image": RED,
    }


def pope(answer: str, category: str) -> dict[str, Any]:
    row = {"image": RED, "question": "Is there a cat?", "question_id": "1", "image_source": "COCO_1"}
    return {**row, "category": category, "answer": answer}


def lines(answer: int, category: str) -> dict[str, Any]:
    options = {f"option{n}": text for n, text in enumerate(["a cat", "a dog", "a cow", "N/A", "N/A"])}
    return {
        "id": f"v_{answer}_{category}",
        "video_path": "v.mp4",
        "question": "Who walks?",
        **options,
        "correct_choice": answer,
        "duration": 4.0,
        "duration_group": 15,
        "question_category": category,
    }


def videomme(video: str, answer: str) -> dict[str, Any]:
    return {
        "videoID": video,
        "question_id": f"{video}-1",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Geography",
        "task_type": "Counting Problem",
        "question": "How many?",
        "options": ["A. one", "B. two", "C. three", "D. four"],
        "answer": answer,
    }


def box(number: int, *phrases: str) -> dict[str, Any]:
    name = f"COCO_train2014_00000000000{number}_4.jpg"
    bounds = [4.0, 2.0, 8.0, 4.0]  # of 16 x 8: 0.25, 0.25, 0.75, 0.75
    return {"image": RED, "question_id": str(number), "answer": list(phrases), "bbox": bounds, "file_name": name}


MMBENCH = {
    "rows": [mmbench(5, "A"), mmbench(6, "C"), mmbench(1_000_005, "B"), mmbench(1_000_006, "D")],
    "said": ["A", "The answer is a cow", "(B)", "A. a cat"],
    "scores": [1, 1, 1, 0],
    "metrics": {"gpt_eval_score": 50},
    "kinds": ["perception"] * 4,
    "groups": ["5", "6", "5", "6"],
}
CASES = [
    Case(
        "mme",
        [
            mme("a", "existence", "Yes"),
            mme("a", "existence", "No"),
            mme("b", "existence", "Yes"),
            mme("b", "existence", "No"),
            mme("c", "code_reasoning", "Yes"),
            mme("c", "code_reasoning", "No"),
        ],
        ["Yes", "no.", "Yes, it is", "yes", "maybe", "yes"],
        [1, 1, 1, 0, 0, 0],
        # Mean over pictures of 100 x share right + 100 if both are.
        {"mme_perception_score": (200 + 50) / 2, "mme_cognition_score": 0},
        ["existence"] * 4 + ["code_reasoning"] * 2,
        ["a", "a", "b", "b", "c", "c"],
    ),
    Case(
        "vqav2_val",
        [
            vqav2(0, ("red", 4), ("blue", 6)),
            vqav2(1, ("red", 2), ("blue", 8)),
            vqav2(2, ("red", 1), ("blue", 9)),
            vqav2(3, ("blue", 10)),
        ],
        ["Red", "red.", "the red", "red"],
        # Each of the ten answers is left out in turn, and three of the others suffice: (2 x 1/3 + 8 x 2/3) / 10.
        [1, 0.6, 0.3, 0],
        {"exact_match": (1 + 0.6 + 0.3) / 4},
        ["other"] * 4,
        ["0", "0", "1", "1"],
    ),
    Case("mmbench_en_dev_static", **MMBENCH),
    Case("mmbench_cn_dev_static", **MMBENCH),
    Case(
        "mvbench_action_antonym",
        [
            {"video": f"{number}.mp4", "question": "What?", "candidates": ["up", "down"], "answer": answer}
            for number, answer in enumerate(["up", "down", "down"])
        ],
        ["(A) up", "B.", "A"],
        [1, 1, 0],
        {"mvbench_accuracy": 200 / 3},
        ["action_antonym"] * 3,
        ["0.mp4", "1.mp4", "2.mp4"],
    ),
    Case(
        "videomme",
        [videomme("v", "B"), videomme("v", "C"), videomme("w", "A")],
        ["B", "The answer is (C).", "D"],
        [1, 1, 0],
        {"videomme_perception_score": 200 / 3},
        ["short: Counting Problem"] * 3,
        ["v", "v", "w"],
    ),
    Case(
        "textvqa_val",
        [
            {
                "image": RED,
                "image_id": "i",
                "question": "what?",
                "question_id": number,
                "answers": people(("red", count), ("blue", 10 - count)),
            }
            for number, count in enumerate([10, 2])
        ],
        ["Red.", "red"],
        [1, 0.6],
        {"exact_match": 0.8},
        ["", ""],
        ["i", "i"],
    ),
    Case(
        "docvqa_val",
        [
            {
                "image": RED,
                "questionId": str(number),
                "docId": 7,
                "question": "When?",
                "question_types": ["form", "layout"],
                "answers": ["1990", "the year 1990"],
            }
            for number in range(3)
        ],
        ["1990", "1980", "no idea"],
        [1, 0.75, 0],  # 1 - edit distance / length, 0 below one half
        {"anls": 1.75 / 3},
        ["form, layout"] * 3,
        ["7"] * 3,
    ),
    Case(
        "ocrbench",
        [
            {"image": RED, "dataset": "x", "question": "?", "question_type": kind, "answer": ["STOP"]}
            for kind in ("Regular Text Recognition", "Doc-oriented VQA", "Doc-oriented VQA")
        ],
        ["it says stop", "STOP", "halt"],
        [1, 1, 0],
        {"ocrbench_accuracy": 2 / 1000},
        ["Regular Text Recognition", "Doc-oriented VQA", "Doc-oriented VQA"],
    ),
    Case(
        "refcoco_bbox_rec_val",
        [box(1, "left cat", "the cat"), box(2, "dog"), box(3, "hen")],
        ["[0.25, 0.25, 0.75, 0.75]", "[0.25, 0.25, 0.75, 0.5]", "[0.25, 0.25, 0.74, 0.45]", "somewhere"],
        [1, 1, 0, 0],  # IoU 1, 1/2, 0.392, 0
        {"refcoco_ACC@0.5": 0.5, "refcoco_ACC@0.3": 0.75},
        [""] * 4,
        [f"COCO_train2014_00000000000{number}" for number in (1, 1, 2, 3)],
    ),
    Case(
        "pope",
        [pope("yes", "popular"), pope("yes", "random"), pope("no", "random"), pope("no", "adversarial")],
        ["Yes", "yes.", "no", "yes"],
        [1, 0, 1, 0],
        {"pope_accuracy": 0.5, "pope_precision": 0.5, "pope_recall": 1},
        ["popular", "random", "random", "adversarial"],
        ["COCO_1"] * 4,
    ),
    Case(
        "gqa",
        [{"image": RED, "imageId": "n1", "question": "Who?", "answer": answer} for answer in ("cat", "dog")],
        ["Cat.", "a dog"],
        [1, 0],
        {"exact_match": 0.5},
        groups=["n1", "n1"],
        overrides={"process_docs": None},  # it fetches the pictures from the hub
    ),
    Case(
        "scienceqa_img",
        [
            {"image": RED, "question": "?", "hint": "", "choices": ["x", "y"], "answer": answer, "subject": "biology"}
            for answer in (0, 1, 1)
        ],
        ["A", "B. y", "x"],
        [1, 1, 0],
        {"exact_match": 2 / 3},
        ["biology"] * 3,
    ),
    Case(
        "mmstar",
        [
            {
                "index": number,
                "image": RED,
                "question": "Which? Options: A: x, B: y, C: z, D: w",
                "answer": answer,
                "category": "math",
                "l2_category": l2,
            }
            for number, (answer, l2) in enumerate(
                [("A", "geometry"), ("B", "geometry"), ("C", "statistical reasoning")]
            )
        ],
        ["A", "C", "C"],
        [1, 0, 1],
        {"math": 0.75, "average": 0.75},  # the mean of the means of two kinds
        ["math"] * 3,
    ),
    Case(
        "ai2d",
        [{"image": RED, "question": "?", "options": ["x", "y"], "answer": answer} for answer in ("0", "1")],
        ["A. x", "a"],
        [1, 0],
        {"exact_match": 0.5},
    ),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tasks write files for servers into the current folder, and data sets are copied into a cache."""
    monkeypatch.chdir(tmp_path)
    cache(tmp_path / "datasets", monkeypatch)
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # where tasks look for videos, which nothing opens here
    for name in ("videomme/data/v.mp4", "videomme/data/w.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()


def scored(case: Case, folder: Path) -> tuple[dict[str, Any], list[float], Any]:
    metrics, samples, _ = evaluate(write(folder, case.task, case.rows, **case.overrides), case.said)
    assert len(samples) == len(case.said)
    return metrics, [scores.per_sample(case.task, sample) for sample in samples], samples


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_scores_and_metrics_of_known_answers(case: Case, tmp_path: Path) -> None:
    metrics, found, samples = scored(case, tmp_path / "task")
    assert found == pytest.approx(case.scores)
    assert {name: metrics[name] for name in case.metrics} == pytest.approx(case.metrics)
    if case.kinds is not None:
        assert [scores.kind(case.task, sample["doc"]) for sample in samples] == case.kinds
    if case.groups is not None:
        assert [scores.group(case.task, sample["doc"]) for sample in samples] == case.groups


def test_longvideobench_without_a_letter_is_wrong_and_not_drawn(tmp_path: Path) -> None:
    rows = [lines(0, "S2E"), lines(1, "S2E"), *(lines(2, f"T{number}") for number in range(8))]
    case = Case("longvideobench_val_v", rows, ["A", "Best answer: C", *["no idea"] * 8], [1, 0, *[0] * 8], {})
    metrics, found, samples = scored(case, tmp_path / "task")
    assert found == case.scores
    drawn = [sample["lvb_acc"]["parsed_pred"] for sample in samples]
    assert set(drawn[2:]) <= {"A", "B", "C"}  # by lmms-eval, whose own metric counts them
    official = sum(letter == sample["lvb_acc"]["answer"] for letter, sample in zip(drawn, samples, strict=True)) / 10
    assert metrics["lvb_acc"] == pytest.approx(official)
    assert [scores.kind(case.task, sample["doc"]) for sample in samples][:2] == ["S2E", "S2E"]
    assert {scores.group(case.task, sample["doc"]) for sample in samples} == {"v.mp4"}


def test_the_same_run_twice_scores_the_same(tmp_path: Path) -> None:
    """OCRBench adds up in a module's variable, which a second run in one process must not start from."""
    case = next(case for case in CASES if case.task == "ocrbench")
    first, second = (scored(case, tmp_path / "task")[0] for _ in range(2))
    assert first == second


def test_seedbench_scores_the_first_letter(tmp_path: Path) -> None:
    sample = {"seed_all": {"pred": "b", "answer": "B", "question_id": "1"}, "seed_image": {"pred": "b", "answer": "B"}}
    assert scores.per_sample("seedbench", sample) == 1
    assert scores.per_sample("seedbench", {"seed_all": {"pred": "A", "answer": "B"}}) == 0
    assert scores.kind("seedbench", {"question_type_id": 3}) == "3"
