"""Times of a sweep's arms: what is measured, kept, resumed and refused, and which ratios are made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evoprune import tiny
from evoprune.evaluate import latency
from evoprune.evaluate.arms import FRAMES, FULL, Arm
from evoprune.evaluate.folder import Folder, FolderError
from evoprune.evaluate.latency.arms import shown
from evoprune.tiny import video

QUICK = {"batch": 1, "repeats": 1, "picture": (112, 112)}
SEEDS = [Arm("random", 0.25, seed=seed) for seed in (0, 1)]
FIRST = [Arm(FULL), Arm("evoprune", 0.25), Arm("evoprune", 0.25, {"schedule": "mean"}, label="evoprune mean")]
SECOND = [Arm("evoprune", 3), Arm("cdpruner", 49), Arm("fastv", 49)]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Folder:
    """Two budgets, then more arms on top; the unpruned model's settings are looked at behind it."""
    path = tmp_path_factory.mktemp("times") / "results"
    with Folder(path, {"model": "tiny"}) as found:
        before = (model[0].generation_config.eos_token_id, model[0].generation_config.pad_token_id, model[0].training)
        steps: list[tuple[int, int]] = []
        latency.measure(
            *model, [*FIRST, *SEEDS], folder=found, **QUICK, advance=lambda what, done, all_: steps.append((done, all_))
        )
        told = json.loads((path / latency.FILE).read_text())
        assert [one for one, _ in steps] == list(range(1, len(steps) + 1)) and steps[-1][0] == steps[-1][1]
        latency.measure(*model, [*FIRST, *SECOND], folder=found, **QUICK)
        after = (model[0].generation_config.eos_token_id, model[0].generation_config.pad_token_id, model[0].training)
        assert after == before
        assert json.loads((path / latency.FILE).read_text())["runs"][:1] == told["runs"]  # what is there stays
    return Folder(path)


def test_a_budget_is_a_run_with_unpruned_models_of_its_own(folder: Folder) -> None:
    found = latency.load(folder)
    assert found is not None
    runs = [
        [(one["arm"]["label"] or one["arm"]["method"], one["arm"]["keep"]) for one in r["arms"]] for r in found["runs"]
    ]
    assert runs == [
        [("evoprune", 0.25), ("evoprune mean", 0.25), ("random", 0.25)],  # the seeds of random once
        [("evoprune", 3)],
        [("cdpruner", 49), ("fastv", 49)],
    ]
    for run in found["runs"]:
        assert [base["kind"] for base in run["bases"]] == ["native", "native-read"]  # CLIP's last layer is not read
        assert torch.__version__.startswith(run["manifest"]["packages"]["torch"].partition("+")[0])
        assert run["clock"] == ("cpu_seconds" if found["configuration"]["threads"] == 1 else "seconds")
        stages = {stage for one in [*run["bases"], *run["arms"]] if not one["error"] for stage in one["times"]}
        assert stages == {"preprocess", "encoder", "projector", "pre_llm", "prefill", "ttft"}
    assert found["configuration"]["frames"] is None and found["configuration"]["dtype"] == "float32"
    assert found["runs"][0]["arms"][0]["tokens"] == 49 and found["runs"][0]["bases"][0]["tokens"] == 196


def test_what_cannot_run_says_why_and_the_others_go_on(folder: Folder) -> None:
    found = latency.load(folder)
    small, text, other = SECOND
    assert "smallest reachable keep" in str(latency.refusal(found, small))
    assert "text_tower" in str(latency.refusal(found, text))  # no default was brought along
    assert latency.ratio(found, small, "overall") is None
    assert latency.refusal(found, other) is None and latency.ratio(found, other, "overall") > 0  # type: ignore[operator]


def test_ratios_are_within_a_run_and_to_the_harder_base(folder: Folder) -> None:
    found = latency.load(folder)
    assert found is not None
    arm, run = FIRST[1], found["runs"][0]
    mine = run["arms"][0]["times"]["pre_llm"]["median"]
    shipped, read = (base["times"]["pre_llm"]["median"] for base in run["bases"])
    assert latency.ratio(found, arm, "pre-LLM") == pytest.approx(mine / read)
    assert latency.ratio(found, arm, "pre-LLM", to="native") == pytest.approx(mine / shipped)
    assert latency.value(found, arm, "pre_llm") == mine
    assert latency.ratio(found, Arm(FULL), "LLM") == 1.0
    shares = [
        r["bases"][0]["times"]["encoder"]["median"] / r["bases"][1]["times"]["encoder"]["median"] for r in found["runs"]
    ]
    assert latency.native(found, "encoder") == pytest.approx(sum(shares) / len(shares))
    assert latency.ratio(found, SEEDS[1], "LLM") == latency.ratio(found, SEEDS[0], "LLM")
    assert latency.ratio(found, Arm("random", 0.25), "LLM") == latency.ratio(found, SEEDS[0], "LLM")


def test_other_arms_stages_and_folders_have_none(folder: Folder, tmp_path: Path) -> None:
    found = latency.load(folder)
    assert latency.ratio(found, Arm("evoprune", 0.25, {"positions": "original"}), "overall") is None  # another arm
    assert latency.ratio(found, FIRST[1], "decode") is None and latency.value(found, Arm("dart", 8), "ttft") is None
    assert latency.ratio(None, FIRST[1], "overall") is None and latency.native(None, "encoder") is None
    assert latency.load(tmp_path) is None
    (tmp_path / latency.FILE).write_text('{"format": "another"}')
    with pytest.raises(FolderError, match="no times in the format"):
        latency.load(tmp_path)


def test_times_of_another_setting_or_machine_are_not_mixed_in(folder: Folder, model: Any, tmp_path: Path) -> None:
    told = latency.load(folder)
    assert told is not None
    for name, value, asked in (("machine", "another GPU", {}), ("batch", 1, {"batch": 2})):
        path = tmp_path / name
        with Folder(path, {"model": "tiny"}) as other:
            there = {**told, "configuration": {**told["configuration"], name: value}}
            other.write_json(latency.FILE, there)
            with pytest.raises(FolderError, match=f"holds times with {name}="):
                latency.measure(*model, FIRST, folder=other, **{**QUICK, **asked})
            assert latency.load(other) == there


@pytest.fixture(scope="module")
def clips() -> Any:
    pytest.importorskip("torchvision", reason="the processor of videos needs torchvision")
    return video.load()


def test_one_token_is_not_the_share_of_all() -> None:
    one, everything = Arm("evoprune", 1), Arm("evoprune", 1.0)
    times = {"error": None, "times": {"ttft": {"median": 1.0}}}
    run = {"bases": [{"kind": "native", **times}], "arms": [{"arm": one.to_dict(), **times}]}
    assert one == everything  # 1 == 1.0
    assert latency.ratio({"runs": [run]}, one, "overall") == 1.0
    assert latency.ratio({"runs": [run]}, everything, "overall") is None
    assert latency._budgets([one, everything]) == [[one], [everything]] and len(latency._budgets([one, one])) == 1


def test_times_are_of_pictures_or_of_videos() -> None:
    told = {"frames": None, "picture": [480, 640], "batch": 16}
    pictures = {"configuration": told, "runs": [{}]}
    videos = {"configuration": {**told, "frames": 8}, "runs": [{}]}
    assert [latency.modality(one) for one in (pictures, videos, {**videos, "runs": []}, None)] == [
        "image", "video", None, None,
    ]  # fmt: skip
    assert latency.of_task(pictures, "tiny_scenes") is pictures and latency.of_task(videos, "tiny_clips") is videos
    assert latency.of_task(videos, "tiny_scenes") is None and latency.of_task(pictures, "videomme") is None
    assert latency.of_task(pictures, "somebody's own") is pictures and latency.of_task(None, "mme") is None
    assert "one picture of 480 x 640, batch 16" in latency.note(pictures)
    assert "a video of 8 frames of 480 x 640" in latency.note(videos, "tiny_clips")
    assert latency.note(pictures, "tiny_clips").startswith("time: not measured; prompts with one picture")


def test_fewer_frames_have_the_tokens_of_a_budget(clips: Any) -> None:
    arms = [Arm("evoprune", 9), Arm(FRAMES, 9)]
    found = latency.measure(*clips, arms, frames=8, **QUICK)
    (run,) = found["runs"]
    tokens = {one["arm"]["method"]: one["tokens"] for one in run["arms"]}
    assert tokens == {"evoprune": 8 * 9 + 1, FRAMES: 3 * 25 + 1}  # and a newline
    assert run["bases"][0]["tokens"] == 8 * 25 + 1
    flops = {one["arm"]["method"]: one["flops"] / run["bases"][-1]["flops"] for one in run["arms"]}
    assert flops[FRAMES] == pytest.approx(3 / 8, abs=0.05)  # it really runs on fewer frames
    assert latency.ratio(found, arms[1], "pre-LLM") is not None


def test_options_act_on_the_base_too(clips: Any) -> None:
    found = latency.measure(*clips, [Arm("grid", 0.5)], frames=4, options={"newline": "none"}, **QUICK)
    (run,) = found["runs"]
    assert [base["kind"] for base in run["bases"]] == ["native", "native-read"]
    assert [base["tokens"] for base in run["bases"]] == [4 * 25 + 1, 4 * 25]
    assert found["configuration"]["options"] == {"newline": "none"}


def test_frames_are_counted_as_tokens_are() -> None:
    assert [shown(keep, 8, 25) for keep in (25, 13, 9, 1, 1.0, 0.5, 0.0625)] == [8, 4, 3, 1, 8, 4, 1]
    assert shown(64, 64, 169) == 24 and shown(0.25, 8, None) == 2
    with pytest.raises(ValueError, match="keep=9 is no share of a frame where frames differ in size"):
        shown(9, 8, None)


def test_pictures_have_no_fewer_frames(model: Any) -> None:
    found = latency.measure(*model, [Arm(FRAMES, 0.5), Arm("grid", 0.5)], **QUICK)
    assert "prompts with one picture are timed" in str(latency.refusal(found, Arm(FRAMES, 0.5)))
    assert latency.ratio(found, Arm("grid", 0.5), "overall") is not None
