"""The embedded tasks as lmms-eval loads them: the same questions and the same pixels as everywhere else."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoprune.evaluate.embedded import data as tiny_data
from evoprune.evaluate.embedded import tasks as embedded_tasks
from evoprune.tiny import benchmark as scenes
from evoprune.tiny.video import benchmark as clips
from tests.evaluate.local_tasks import cache

pytest.importorskip("lmms_eval", reason="lmms-eval is an extra")

LIMIT = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(folder / "datasets", monkeypatch)


def load(task: str, path: Path, kind: str = "chat") -> Any:
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_path=[str(path)], include_defaults=False, model_name="llava_hf")
    return get_task_dict([task], manager, task_type=kind)[task]


@pytest.mark.parametrize("task", embedded_tasks.TASKS)
def test_the_questions_are_those_of_every_harness(task: str, folder: Path) -> None:
    found = load(task, tiny_data.prepare(task, LIMIT, folder))
    questions = embedded_tasks.questions(task, LIMIT)
    assert len(found.eval_docs) == LIMIT
    for doc, question in zip(found.eval_docs, questions, strict=True):
        assert doc["id"] == question.id
        assert found.doc_to_text(doc) == question.prompt
        assert found.doc_to_target(doc) == question.target
        assert (doc["kind"], doc["group"]) == (question.kind, question.group)
    settings = found.config.generation_kwargs
    assert (settings["max_new_tokens"], settings["do_sample"], settings["temperature"]) == (2, False, 0)


@pytest.mark.parametrize("kind", ["chat", "simple"])
def test_scenes_come_with_the_same_pixels(kind: str, folder: Path) -> None:
    found = load("tiny_scenes", tiny_data.prepare("tiny_scenes", LIMIT, folder), kind)
    for doc in found.eval_docs:
        (shown,) = found.doc_to_visual(doc)
        wanted = scenes.picture("test", int(doc["group"])).image()
        assert shown.mode == "RGB" and np.array_equal(np.asarray(shown), np.asarray(wanted))
    if kind == "chat":
        ((turn,),) = (found.doc_to_messages(found.eval_docs[0]),)
        assert [part["type"] for part in turn["content"]] == ["image", "text"]


@pytest.mark.parametrize("reader", ["decord", "evoprune", "av"])
def test_clips_come_with_the_same_pixels(reader: str, folder: Path) -> None:
    found = load("tiny_clips", tiny_data.prepare("tiny_clips", LIMIT, folder))
    assert len({doc["group"] for doc in found.eval_docs}) > 1
    for doc in found.eval_docs:
        (path,) = found.doc_to_visual(doc)
        assert np.array_equal(read(reader, path), clips.film("test", int(doc["group"])).frames)
    ((turn,),) = (found.doc_to_messages(found.eval_docs[0]),)
    assert [part["type"] for part in turn["content"]] == ["video", "text"]


def read(reader: str, path: str) -> np.ndarray:
    if reader == "decord":
        decord = pytest.importorskip("decord", reason="has no wheels for some machines")
        video = decord.VideoReader(path, ctx=decord.cpu(0))
        return video.get_batch(list(range(len(video)))).asnumpy()
    if reader == "evoprune":
        from evoprune.video import read_video

        return read_video(path, 8).frames
    import av

    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_an_answer_is_right_where_it_is_the_word(folder: Path) -> None:
    found = load("tiny_scenes", tiny_data.prepare("tiny_scenes", LIMIT, folder))
    doc = found.eval_docs[0]
    for said, score in ((doc["answer"], 1), (f" {doc['answer']}\n", 1), ("", 0), (f"{doc['answer']}.", 0)):
        assert found.process_results(doc, [said])["exact_match"]["score"] == score
    rows = [found.process_results(one, [doc["answer"]])["exact_match"] for one in found.eval_docs]
    right = [one["answer"] == doc["answer"] for one in found.eval_docs]
    assert found.aggregation()["exact_match"](rows) == pytest.approx(sum(right) / LIMIT)


def test_files_are_the_same_every_time_and_written_once(folder: Path, tmp_path: Path) -> None:
    for task in embedded_tasks.TASKS:
        once = tiny_data.prepare(task, LIMIT, folder)
        stamp = once.stat().st_mtime_ns
        assert tiny_data.prepare(task, LIMIT, folder) == once and once.stat().st_mtime_ns == stamp
        assert tiny_data.prepare(task, LIMIT + 1, folder) != once
        # Written anew in its place, as paths of clips stand in the table.
        moved = tmp_path / task
        once.rename(moved)
        assert tiny_data.prepare(task, LIMIT, folder) == once
        names = sorted(path.name for path in once.iterdir())
        assert names == sorted(path.name for path in moved.iterdir())
        assert all((once / name).read_bytes() == (moved / name).read_bytes() for name in names)


def _prepare(folder: Path) -> Path:
    return tiny_data.prepare("tiny_clips", 3, folder)


def test_several_processes_may_prepare_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = set(pool.map(_prepare, [tmp_path] * 3))
    (one,) = found
    assert [path.name for path in tmp_path.iterdir()] == [one.name], "parts are left over"
    assert (one / "tiny_clips.yaml").is_file()


def test_a_process_that_was_faster_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiny_data._write

    def slower(*args: Any) -> None:
        real(*args)
        real(*args)

    monkeypatch.setattr(tiny_data, "_write", slower)
    found = tiny_data.prepare("tiny_scenes", 2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [found.name]


def test_where_the_cache_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVOPRUNE_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert tiny_data.cache() == Path.home() / ".cache" / "evoprune"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert tiny_data.cache() == Path("/x/evoprune")
    monkeypatch.setenv("HF_HOME", "/h")
    assert tiny_data.cache() == Path("/h/evoprune")
    monkeypatch.setenv("EVOPRUNE_CACHE", "~/own")
    assert tiny_data.cache() == Path.home() / "own"


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown embedded task 'tiny_scene': did you mean 'tiny_scenes'"):
        tiny_data.prepare("tiny_scene")
    with pytest.raises(ValueError, match="limit=0 leaves no question of tiny_clips"):
        tiny_data.prepare("tiny_clips", 0)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ValueError, match=r"cannot be written .*set EVOPRUNE_CACHE to a folder"):
        tiny_data.prepare("tiny_scenes", 2, file)
    assert file.read_text() == "x"


@pytest.mark.parametrize("task", embedded_tasks.TASKS)
def test_the_program_prints_a_folder_that_is_there(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "fresh"))
    whole = tiny_data.prepare
    monkeypatch.setattr(tiny_data, "prepare", lambda name: whole(name, 3))  # seconds otherwise
    tiny_data.main([task])
    told = Path(capsys.readouterr().out.strip())
    assert told.parent == tmp_path / "fresh"
    assert {f"{task}.yaml", "questions.parquet"} <= {file.name for file in told.iterdir()}
