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
from evoprune.evaluate.embedded.runner import Embedded
from evoprune.evaluate.lmms.checks import check_types
from evoprune.evaluate.lmms.facts import facts
from evoprune.evaluate.lmms.quiet import WithoutBars
from evoprune.evaluate.lmms.runner import LmmsEval
from evoprune.evaluate.lmms.setup import arguments
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
        (
            {"base": "qwen2_5_vl"},
            "runs models of the type qwen2_5_vl, and tiny is of the type llava: leave the base out",
        ),
        ({"base": "internvl_hf"}, "or use base=llava_hf"),
        ({"dtype": "float17"}, "unknown dtype 'float17': did you mean 'float16'"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"model_args": {"dtype": "bloat16"}}, "did you mean 'float16'|did you mean 'bfloat16'"),
        ({"device": "cuda:99"}, "device=cuda:99 is not there"),
        ({"device": "toaster"}, "device=toaster is not there"),
        ({"device": "meta"}, "device=meta cannot compute"),
        ({"attention": "flash_attention_2"}, "needs a GPU and the package flash-attn"),
        ({"model_args": {"max_frames_num": "abc"}}, "max_frames_num='abc' is of the wrong type: LlavaHf .* takes int"),
        ({"base": "auto", "model_args": {"use_cache": 3}}, "use_cache=3 is of the wrong type: AutoModel .* takes bool"),
        ({"gen_kwargs": {"max_new_token": 1}}, "unknown setting of generation 'max_new_token': did you mean"),
        (
            {"gen_kwargs": {"max_new_tokens": "abc"}},
            "max_new_tokens='abc' does not fit generation: give a whole",
        ),
        ({"gen_kwargs": {"do_sample": 1}}, "do_sample=1 does not fit generation: give true or false"),
        ({"gen_kwargs": {"temperature": -1}}, "temperature=-1 .* give a number, 0 or more"),
        ({"gen_kwargs": {"until": [1]}}, "give a string or a list of strings"),
    ],
)
def test_a_runner_refuses_what_its_class_does_not_take(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        LmmsEval("tiny", **settings)
    assert "\n" not in str(caught.value)


def test_a_class_refuses_what_it_has_no_name_for() -> None:
    with pytest.raises(ValueError, match="takes no dtype=float16"):
        arguments("qwen2_5_vl", {"dtype": "float16"}, {})
    with pytest.raises(ValueError, match="takes no attention=eager"):
        arguments("instructblip", {"attention": "eager"}, {})


def test_types_are_read_from_any_signature() -> None:
    class Model:
        def __init__(self, a: int | str | None = None, b: float = 1.0, c=True, d: list[int] = (), e=None):  # type: ignore
            pass

    check_types(Model, {"a": "x", "b": 2, "c": False, "d": "anything", "e": 3})
    for name, value, taken in (("a", 1.5, "int or str or null"), ("b", "2", "float"), ("c", 1, "bool")):
        with pytest.raises(ValueError, match=f"{name}=.* takes {taken}"):
            check_types(Model, {name: value})


def test_settings_of_generation_arrive_as_they_are(
    tmp_path: Path, images: LmmsEval, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"until": ["e", "a, b"], "max_new_tokens": 2, "top_p": None}
    seen: list[Any] = []
    answer = type(images.lm).generate_until

    def watched(self: Any, requests: Any) -> Any:
        seen.extend(request.args[2] for request in requests)
        return answer(self, requests)

    monkeypatch.setattr(type(images.lm), "generate_until", watched)
    own = LmmsEval("tiny", limit=2, gen_kwargs=given)
    own._lm = images.lm
    own.run("tiny_scenes", Arm("full"), lambda n: None)
    assert len(seen) == 2 and all(given.items() <= one.items() and one["do_sample"] is False for one in seen)
    assert own.configuration()["gen_kwargs"] == given
    assert "generation_kwargs" not in "".join(capfd.readouterr())
    seen.clear()
    images.run("tiny_scenes", Arm("full"), lambda n: None)
    assert all("top_p" not in one or one["until"] != given["until"] for one in seen), "they stay with their runner"


def test_a_model_of_pictures_is_not_asked_about_videos(images: LmmsEval) -> None:
    for arm in (Arm("full"), Arm("grid", 16)):
        with pytest.raises(Refused, match=r"tiny_clips shows videos, and LLaVA-1\.5 sees pictures alone"):
            images.run("tiny_clips", arm, lambda n: None)


def test_pictures_that_the_class_drops_are_refused(images: LmmsEval, monkeypatch: pytest.MonkeyPatch) -> None:
    read = type(images.processor).__call__

    def blind(self: Any, *args: Any, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        return read(self, *args, text=text.replace("<image>", ""), **kwargs)

    monkeypatch.setattr(type(images.processor), "__call__", blind)
    with pytest.raises(Refused, match="requests without giving pictures and prompt"):
        images.run("tiny_scenes", Arm("full"), lambda n: None)


def test_a_share_that_drops_nothing_is_run(images: LmmsEval) -> None:
    assert images.run("tiny_scenes", Arm("divprune", 0.999), lambda n: None).tokens == 196


def test_what_changes_answers_changes_the_configuration(images: LmmsEval, monkeypatch: pytest.MonkeyPatch) -> None:
    told = images.configuration()
    assert told["device"] and told["processes"] == 1 and "judge" not in told and "kernels" not in told
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MODEL_VERSION", "judge")
    other = images.configuration()
    assert other["processes"] == 2 and other["judge"] == {"model": "judge"}
    assert {key for key in told if told[key] != other[key]} == {"processes"}


def test_only_a_model_s_own_files_are_its_revision(tmp_path: Path) -> None:
    folder = case.save("llava", tmp_path / "model")
    first = facts(folder, "auto", None)["revision"]
    (tmp_path / "model" / "notes.md").write_text("later")
    (tmp_path / "model" / "log.out").write_text("later")
    assert facts(folder, "auto", None)["revision"] == first
    (tmp_path / "model" / "chat_template.jinja").write_text("another")
    assert facts(folder, "auto", None)["revision"] != first


def test_both_runners_tell_a_recipe_alike(images: LmmsEval) -> None:
    own = Embedded("tiny", limit=LIMIT)
    assert own.configuration()["defaults"] == images.configuration()["defaults"]
    assert own.configuration()["device"] == images.configuration()["device"]


def test_a_runner_of_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no model that transformers can load"):
        LmmsEval("/nowhere")


def test_batches_for_a_class_that_takes_none_are_refused() -> None:
    with pytest.raises(ValueError, match="answers one question at a time, not 4"):
        LmmsEval("tiny", batch=4)


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
