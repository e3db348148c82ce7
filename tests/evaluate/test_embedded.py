"""The runner of the embedded models: shared or not, its cells are the embedded benchmark's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import evoprune
from evoprune.evaluate.arms import FRAMES, FULL, Arm
from evoprune.evaluate.embedded import model as embedded_model
from evoprune.evaluate.embedded.memo import TowerMemo
from evoprune.evaluate.embedded.runner import Embedded
from evoprune.evaluate.embedded.told import place, told
from evoprune.evaluate.sweep import Refused
from evoprune.ops import kernels
from evoprune.tiny import benchmark as scenes
from evoprune.tiny.video import benchmark as clips

SCENES, CLIPS = 2, 2
LIMITS = {"tiny": len(scenes.examples("test", SCENES)), "tiny-video": len(clips.examples("test", CLIPS))}
TASK = {"tiny": "tiny_scenes", "tiny-video": "tiny_clips"}
STAGES = ["downsample", "evoprune", "visionzip", "cdpruner", "fitprune"]


def arm(method: str, keep: Any = 0.25, **settings: Any) -> Arm:
    return Arm(method, None if method == FULL else keep, settings, 1 if method == "random" else None)


@pytest.fixture(scope="module", params=["tiny", "tiny-video"])
def runner(request: Any) -> Iterator[Embedded]:
    made = Embedded(request.param, limit=LIMITS[request.param], batch=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pictures() -> Embedded:
    return Embedded("tiny", limit=LIMITS["tiny"], batch=8)


@pytest.fixture(scope="module")
def films() -> Embedded:
    return Embedded("tiny-video", limit=LIMITS["tiny-video"], batch=8)


def cell(runner: Embedded, one: Arm) -> Any:
    return runner.run(TASK[runner.name], one, lambda answered: None)


def unshared(runner: Embedded, one: Arm) -> Any:
    memo, runner.memo = runner.memo, None
    try:
        return cell(runner, one)
    finally:
        runner.memo = memo


def everything(model: Any) -> Any:
    """Return what hangs at each module besides its weights."""
    return {
        name: (sorted(one.__dict__), len(one._forward_hooks), len(one._forward_pre_hooks))
        for name, one in model.named_modules()
    }


def test_shared_features_give_the_same_cells(runner: Embedded) -> None:
    cell(runner, arm(FULL))  # transformers adds a hook of its own in the first forward
    before = everything(runner.model)
    for method in [FULL, *STAGES, *([FRAMES] if runner.name == "tiny-video" else [])]:
        shared, plain = cell(runner, arm(method)), unshared(runner, arm(method))
        assert shared.answers == plain.answers and len(shared.answers) == runner.limit
        assert (shared.tokens, shared.layers, shared.metrics) == (plain.tokens, plain.layers, plain.metrics)
    assert runner.memo is not None and runner.memo.reused > runner.memo.encoded
    assert everything(runner.model) == before


def test_the_model_is_bit_identical_after_a_cell(pictures: Embedded) -> None:
    asked = scenes.examples("test", 1)
    text = [scenes.prompt(pictures.processor, e.question) for e in asked]
    images = [[scenes.picture("test", e.scene).image()] for e in asked]
    x = pictures.processor(text=text, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        before = pictures.model(**x).logits
        for method in (FULL, "evoprune", "fastv"):
            cell(pictures, arm(method))
        assert torch.equal(pictures.model(**x).logits, before)


@pytest.mark.parametrize("method", [FULL, "evoprune", "dart"])
def test_a_cell_is_the_embedded_benchmark(pictures: Embedded, method: str) -> None:
    one = arm(method, 49)
    pruner = one.pruner()
    told: list[int] = []
    found = pictures.run("tiny_scenes", one, told.append)
    if pruner is None:
        wanted = scenes.run(pictures.model, pictures.processor, "test", scenes=SCENES)
    else:
        with evoprune.apply(pictures.model, pruner, pictures.processor):
            wanted = scenes.run(pictures.model, pictures.processor, "test", scenes=SCENES)
    assert tuple(answer.text for answer in found.answers) == wanted.answers
    assert [answer.score for answer in found.answers] == wanted.right.tolist()
    assert found.metrics["accuracy"] == pytest.approx(wanted.accuracy)
    assert [answer.id for answer in found.answers] == [q.id for q in pictures.questions("tiny_scenes")]
    assert told == list(range(1, LIMITS["tiny"] + 1)) and found.seconds > 0


def test_tokens_are_counted(pictures: Embedded, films: Embedded) -> None:
    def counts(runner: Embedded, method: str, keep: Any = 0.25) -> Any:
        found = cell(runner, arm(method, keep))
        return found.tokens, found.layers

    assert counts(pictures, FULL) == (196, ())
    assert counts(pictures, "evoprune") == counts(pictures, "downsample") == (49, ())
    assert counts(pictures, "fastv") == (196, (196, 49, 49, 49))
    assert counts(films, FULL) == (8 * 25 + 1, ())
    assert counts(films, "random") == (8 * 6 + 1, ())


def test_fewer_frames_at_the_same_count(films: Embedded, monkeypatch: Any) -> None:
    shown: list[Any] = []
    ask = clips.answers

    def answers(*args: Any, **kwargs: Any) -> Any:
        shown.append(kwargs["frames"])
        return ask(*args, **kwargs)

    monkeypatch.setattr(clips, "answers", answers)
    for keep, frames in ((26, [*range(8)]), (0.5, [1, 3, 5, 7]), (6, [2, 6]), (0.0625, [4])):
        found = cell(films, Arm(FRAMES, keep))
        assert shown.pop() == frames and found.tokens == 25 * len(frames) + 1 and not found.layers
    wanted = clips.run(films.model, films.processor, "test", clips=CLIPS, frames=frames)
    assert tuple(answer.text for answer in found.answers) == wanted.answers


def test_what_a_model_cannot_run_is_refused(pictures: Embedded, films: Embedded) -> None:
    for runner, one, message in (
        (pictures, Arm(FRAMES, 0.25), "tiny sees pictures, of which no frames can be left out: use downsample"),
        (films, Arm(FRAMES, 0.0), "keep=0.0 is outside"),
        (pictures, arm("evoprune", 197), "keep=197 is above the 196 tokens"),
        (films, arm("evoprune", 0.01), "the smallest reachable keep is 2"),
        (pictures, arm("evoprune", 0.25, critical_ratio=2), "critical_ratio=2"),
        (pictures, arm("cdpruner", text_tower=None), "text_tower=None"),
    ):
        with pytest.raises(Refused, match=message) as told:
            cell(runner, one)
        assert "\n" not in str(told.value)


def test_a_task_of_the_other_model_and_unknown_words(pictures: Embedded) -> None:
    match = r"tiny_clips was made for the model tiny-video, not for tiny: evaluate tiny-video on it, or tiny on tiny_sc"
    for call in (pictures.questions, pictures.video, lambda task: pictures.run(task, arm(FULL), lambda n: None)):
        with pytest.raises(ValueError, match=match):
            call("tiny_clips")
    assert not pictures.video("tiny_scenes")
    for call, match in (
        (lambda: pictures.questions("tiny_scene"), "unknown embedded task 'tiny_scene': did you mean 'tiny_scenes'"),
        (lambda: Embedded("tinny"), "unknown embedded model 'tinny': did you mean 'tiny'"),
        (lambda: Embedded("tiny", dtype="float23"), "unknown dtype .*did you mean 'float32'"),
        (lambda: Embedded("tiny", limit=0), "limit=0 asks nothing: give at least 1"),
        (lambda: Embedded("tiny", batch=-1), "batch=-1 asks nothing"),
        (lambda: Embedded("tiny", options={"pool": "average"}), "LLaVA-1.5 has no options"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_cells_do_not_depend_on_those_before_them(runner: Embedded) -> None:
    arms = [arm(FULL), arm("random"), arm("evoprune"), arm("fastv"), arm("visionzip")]
    arms += [Arm(FRAMES, 0.25)] if runner.name == "tiny-video" else []

    def seen(order: list[Arm]) -> dict[str, Any]:
        """Return the logits behind every answer of each cell, the features of earlier ones at hand."""
        runner.memo, logits = TowerMemo(), {}
        for one in order:
            rows: list[torch.Tensor] = []
            hook = runner.model.lm_head.register_forward_hook(lambda *call, rows=rows: rows.append(call[2].clone()))
            cell(runner, one)
            hook.remove()
            logits[one.slug] = torch.cat([row[:, -1] for row in rows])
        return logits

    forth, back = seen(arms), seen(arms[::-1])
    assert all(torch.equal(forth[slug], back[slug]) for slug in forth)


def test_options_hold_for_the_unpruned_model_too() -> None:
    films = Embedded("tiny-video", limit=4, options={"newline": "none", "encoder_batch": 4})
    assert cell(films, arm(FULL)).tokens == 200 and cell(films, Arm(FRAMES, 0.25)).tokens == 50
    assert cell(films, arm("random")).tokens == 48
    assert films.configuration()["options"] == {"encoder_batch": 4, "newline": "none"}


def test_the_configuration_is_json_without_paths_and_tells_runs_apart(pictures: Embedded, monkeypatch: Any) -> None:
    def configuration(**given: Any) -> dict[str, Any]:
        runner = Embedded("tiny", **{"limit": 4, **given})
        found = runner.configuration()
        runner.close()
        return found

    one = configuration()
    assert json.loads(json.dumps(one)) == one == configuration(share=False)
    assert '"/' not in json.dumps(one) and one["template"] and one["benchmark"]["seed"] == scenes.SEED
    assert one["dtype"] == "float32" and one["attention"] == "sdpa" and one["batch"] == 32
    for name, given in (
        ("limit", {"limit": 5}),
        ("dtype", {"dtype": torch.bfloat16}),
        ("batch", {"batch": 4}),
        ("defaults", {"defaults": {"recipe": "another"}}),
    ):
        other = configuration(**given)
        assert {key for key in one if one[key] != other[key]} == {name}
    monkeypatch.setattr(embedded_model, "digest", lambda home, *patterns: "0" * 64)
    other = configuration()
    assert {key for key in one if one[key] != other[key]} == {"weights", "processor", "benchmark"}


def test_settings_of_files_are_their_contents(tmp_path: Any) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        file.write_bytes(b"the same")
    first, second = (told({"recipe": str(file), "layer": 2}) for file in files)
    digest = "sha256:" + hashlib.sha256(b"the same").hexdigest()
    assert first == second == {"layer": 2, "recipe": digest}


def test_on_cuda_the_kernels_count(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(kernels, "status", lambda: {"merging": "failed: no file /x (cuda:0)", "order": "ready"})
    assert place(torch.device("cuda")) == {"device": "GPU", "kernels": {"merging": "failed", "order": "ready"}}
    assert set(place(torch.device("cpu"))) == {"device"}


def test_digests_follow_the_files(tmp_path: Any) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "other.json").write_bytes(b"x")
    first = embedded_model.digest(tmp_path, "*.safetensors")
    embedded_model.digest.cache_clear()
    (tmp_path / "other.json").write_bytes(b"y")
    assert embedded_model.digest(tmp_path, "*.safetensors") == first
    embedded_model.digest.cache_clear()
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert embedded_model.digest(tmp_path, "*.safetensors") != first


def test_a_closed_runner_says_so() -> None:
    runner = Embedded("tiny", limit=2)
    cell(runner, arm(FULL))
    assert runner.memo is not None and len(runner.memo)
    runner.close()
    assert not len(runner.memo)
    with pytest.raises(ValueError, match="this runner of tiny is closed: make another one"):
        cell(runner, arm(FULL))
