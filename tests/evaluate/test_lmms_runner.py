"""Cells of a sweep through lmms-eval, against the library's own benchmarks and on a local task."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")
pytest.importorskip("decord", reason="llava_hf of lmms-eval needs decord")

import evoprune
from evoprune import tiny
from evoprune.evaluate import catalogue
from evoprune.evaluate.arms import Arm
from evoprune.evaluate.embedded import tasks as embedded_tasks
from evoprune.evaluate.lmms.quiet import WithoutBars
from evoprune.evaluate.lmms.runner import LmmsEval
from evoprune.evaluate.records import Question
from evoprune.evaluate.sweep import Refused
from evoprune.pruners import UniformGrid
from evoprune.tiny import benchmark as scenes
from evoprune.tiny import video as tiny_video
from evoprune.tiny.video import benchmark as clips
from tests.evaluate import lmms_case as case
from tests.evaluate.lmms_case import Row
from tests.families.case import Picture

LIMIT = 24
ARMS = [Arm("full"), Arm("evoprune", 12), Arm("fitprune", 0.25), Arm("cdpruner", 16)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def images() -> Iterator[LmmsEval]:
    runner = LmmsEval("tiny", limit=LIMIT)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def videos() -> Iterator[LmmsEval]:
    runner = LmmsEval("tiny-video", limit=10)
    yield runner
    runner.close()


def own(loaded: tuple[Any, Any], benchmark: Any, task: str, limit: int, arm: Arm, defaults: Any) -> list[str]:
    """Return the answers of the library's own benchmark."""
    model, processor = loaded
    asked, pruner = embedded_tasks.examples(task, limit), arm.pruner(defaults)
    # Sums round differently in batches, and CDPruner divides by what is left of nearly explained tokens.
    batch = {"batch": 1} if arm.method == "cdpruner" else {}
    if pruner is None:
        return list(benchmark.answers(model, processor, "test", asked))
    with evoprune.apply(model, pruner, tokenizer=processor.tokenizer):
        return list(benchmark.answers(model, processor, "test", asked, **batch))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.slug)
def test_a_cell_of_scenes_is_the_library_s_own_benchmark(images: LmmsEval, arm: Arm) -> None:
    answered: list[int] = []
    outcome = images.run("tiny_scenes", arm, answered.append)
    said = own(tiny.load(), scenes, "tiny_scenes", LIMIT, arm, images.defaults)
    asked = embedded_tasks.questions("tiny_scenes", LIMIT)
    assert [one.text for one in outcome.answers] == said
    assert [one.id for one in outcome.answers] == [question.id for question in asked]
    right = [float(text == question.target) for text, question in zip(said, asked, strict=True)]
    assert [one.score for one in outcome.answers] == right
    assert outcome.metrics == {"exact_match": sum(right) / LIMIT}
    assert outcome.tokens == (196 if arm.method in ("full", "fitprune") else arm.keep)
    assert bool(outcome.layers) == (arm.method == "fitprune")
    assert answered == list(range(1, LIMIT + 1))


def test_a_cell_of_clips_is_the_library_s_own_benchmark(videos: LmmsEval) -> None:
    for arm, tokens in ((Arm("full"), 8 * 25 + 1), (Arm("evoprune", 0.25), 8 * 6 + 1)):
        outcome = videos.run("tiny_clips", arm, lambda n: None)
        said = own(tiny_video.load(), clips, "tiny_clips", 10, arm, videos.defaults)
        assert [one.text for one in outcome.answers] == said and outcome.tokens == tokens


def test_fewer_frames_hold_for_one_cell(videos: LmmsEval) -> None:
    before = videos.lm.max_frames_num
    for keep, frames in ((0.25, 2), (6, 2), (13, 4)):  # of 25 tokens a frame
        outcome = videos.run("tiny_clips", Arm("frames", keep), lambda n: None)
        assert outcome.tokens == frames * 25 + 1
    assert videos.lm.max_frames_num == before == 8 and "max_frames_num" in videos.lm.__dict__


def test_what_the_model_cannot_run_is_refused(images: LmmsEval, videos: LmmsEval) -> None:
    with pytest.raises(Refused, match="keep=500"):
        images.run("tiny_scenes", Arm("grid", 500), lambda n: None)
    with pytest.raises(Refused, match="shows pictures"):
        images.run("tiny_scenes", Arm("frames", 0.5), lambda n: None)
    with pytest.raises(Refused, match="recipe"):
        LmmsEval.run(images, "tiny_scenes", Arm("fitprune", 0.5, {"recipe": None}), lambda n: None)
    with pytest.raises(Refused, match="26"):
        videos.run("tiny_clips", Arm("frames", 26), lambda n: None)


def test_a_cell_that_breaks_raises_and_leaves_the_model_as_it_was(
    images: LmmsEval, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(UniformGrid, "select", broken)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            images.run("tiny_scenes", Arm("grid", 16), lambda n: None)
    assert "generate" not in images.model.__dict__ and "clean" not in images.lm.__dict__
    assert images.run("tiny_scenes", Arm("grid", 16), lambda n: None).tokens == 16


def test_the_configuration_says_what_decides_the_answers(images: LmmsEval) -> None:
    import json

    told = images.configuration()
    assert json.loads(json.dumps(told)) == told
    assert told["model"] == "tiny" and told["base"] == "llava_hf" and told["limit"] == LIMIT
    assert told["versions"]["lmms-eval"] and told["revision"] and told["defaults"]["recipe"].startswith("sha256:")
    assert not any(str(Path.home()) in text for text in json.dumps(told).split('"'))
    assert images.main and images.harness == "lmms-eval" and not images.video("tiny_scenes")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"limit": 0}, "limit=0 asks nothing"),
        ({"base": "lava_hf"}, "did you mean 'llava_hf'"),
        ({"model_args": {"max_frames": 3}}, "did you mean 'max_frames_num'"),
        ({"base": "qwen2_5_vl", "dtype": "float16"}, "takes no dtype=float16"),
    ],
)
def test_a_runner_refuses_what_its_class_does_not_take(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LmmsEval("tiny", **settings)


def test_a_runner_of_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no model that transformers can load"):
        LmmsEval("/nowhere")


def test_batches_for_a_class_that_takes_none_are_refused(images: LmmsEval) -> None:
    with pytest.raises(ValueError, match="answers one question at a time, not 4"):
        _ = LmmsEval("tiny", batch=4).lm


def test_any_task_s_documents_are_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = case.write_task(tmp_path / "task", [Row(f"what is {i}?", [Picture(32, 32, i)]) for i in range(5)])
    monkeypatch.setattr(catalogue, "include_paths", lambda tasks, limit: [folder])
    monkeypatch.setattr(catalogue, "generation", lambda task: {"max_new_tokens": 2})
    runner = LmmsEval(case.save("llava", tmp_path / "model"), base="auto", batch=2, limit=3)
    asked = runner.questions(case.TASK)
    assert asked[1] == Question("1", "what is 1?", "a", asked[1].kind, asked[1].group) and len(asked) == 3
    outcome = runner.run(case.TASK, Arm("grid", 16), lambda n: None)
    assert [one.id for one in outcome.answers] == ["0", "1", "2"] and outcome.tokens == 16
    assert all(len(one.text) == 2 for one in outcome.answers)
    runner.close()


def test_bars_are_dropped_and_other_lines_are_not() -> None:
    stream = io.StringIO()
    quiet = WithoutBars(stream)
    for text in ("\r 0%", "\r 50%", "\n", "a warning", "\n", "\r 1%", "another\n"):
        quiet.write(text)
    assert stream.getvalue() == "a warning\nanother\n" and quiet.rich_proxied_file is stream
