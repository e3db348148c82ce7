"""`evoprune eval` and `evoprune compare` from outside: sweeps, tables, files, and one sentence for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from evoprune.commands import eval as command
from evoprune.evaluate.arms import arms
from evoprune.evaluate.folder import Folder
from tests.evaluate.scripted import Scripted
from tests.test_cli import call, refused

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")

METHODS = ("--methods", "evoprune,fastv", "--keep", "0.25", "--set", "positions=original")


def evaluate(model: object, output: object, *arguments: object, limit: object = 12) -> Result:
    return call("eval", model, "--limit", limit, "--output", output, "--device", "cpu", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a small sweep, with times; tests only read it."""
    path = tmp_path_factory.mktemp("eval") / "out"
    result = evaluate(
        "tiny", path, *METHODS, "--tasks", "tiny_scenes", "--latency", "--repeats", 1, "--latency-batch", 2
    )
    assert result.exit_code == 0, result.output
    return path


def test_help() -> None:
    result = call("eval", "--help")
    assert result.exit_code == 0 and "evoprune eval tiny --tasks tiny_scenes" in result.stdout.split("Examples:")[1]
    assert "evoprune compare" in call("compare", "--help").stdout


def test_a_sweep_leaves_its_folder(folder: Path) -> None:
    found = Folder(folder)
    assert found.tasks == ["tiny_scenes"] and len(found.questions("tiny_scenes")) == 12
    wanted = arms(["evoprune", "fastv"], [0.25], {"positions": "original"})
    assert [arm.slug for arm, _ in found.cells("tiny_scenes")] == sorted(
        (arm.slug for arm in wanted), key=lambda slug: (slug != "full", slug)
    )
    (manifest,) = found.manifest()
    for name in ("commit", "device", "packages", "model", "attention", "python", "time", "command"):
        assert manifest[name] is not None, name
    assert manifest["packages"]["scipy"] and manifest["packages"]["torch"]
    assert str(Path.home()) not in (folder / "configuration.json").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["sanity"] is True
    timed = json.loads((folder / "latency.json").read_text())
    assert {"evoprune", "fastv", "random", "grid"} <= {
        one["arm"]["method"] for run in timed["runs"] for one in run["arms"] if one.get("arm")
    }


def test_what_is_done_is_not_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evoprune.evaluate.embedded.runner import Embedded

    monkeypatch.setattr(Embedded, "run", lambda *_: pytest.fail("a finished cell runs again"))
    before = (folder / "summary.json").read_bytes()
    result = evaluate("tiny", folder, *METHODS, "--tasks", "tiny_scenes", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["folder"] == str(folder) and shown["summary"] == json.loads(before) and shown["latency"]["runs"]
    assert (folder / "summary.json").read_bytes() == before


def test_report_shows_pictures_and_exports(folder: Path, tmp_path: Path) -> None:
    result = call("eval", "--report", "--output", folder, "--plots", "--export", tmp_path / "sheets")
    assert result.exit_code == 0, result.output
    assert "12 questions" in result.stdout and "random = mean of 3 seeds" in result.stdout
    drawn = {path.name for path in (folder / "plots").iterdir()}
    assert drawn == {"tiny_scenes-tokens.png", "tiny_scenes-time.png", "tiny_scenes-kinds-0.25.png"}
    assert len(list((tmp_path / "sheets").iterdir())) == 8
    refused(call("eval", "--report"), "--output")
    refused(call("eval", "--report", "--output", tmp_path / "sheets"), "holds no results")


def test_another_configuration_is_not_mixed_in(folder: Path) -> None:
    result = evaluate("tiny", folder, "--tasks", "tiny_scenes", limit=13)
    refused(result, "another configuration", "limit")


def test_sanity_baselines_are_left_out_only_when_it_is_typed(tmp_path: Path) -> None:
    result = evaluate("tiny", tmp_path, "--tasks", "tiny_scenes", "--methods", "vispruner", "--no-sanity", limit=6)
    assert result.exit_code == 0, result.output
    assert "no sanity baselines" in result.stdout
    assert json.loads((tmp_path / "summary.json").read_text())["sanity"] is False


def test_videos_have_fewer_frames_beside_them(tmp_path: Path) -> None:
    result = evaluate("tiny-video", tmp_path, "--methods", "evoprune", "--keep", "0.5", limit=4)
    assert result.exit_code == 0, result.output
    (shown,) = json.loads((tmp_path / "summary.json").read_text())["tasks"].values()
    tokens = {arm["name"]: arm["tokens"] for arm in shown["arms"]}
    assert tokens["frames"] == pytest.approx(tokens["grid"], rel=0.05) and tokens["frames"] < tokens["full"]


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "fig4"])
def test_the_paper_s_tables_run_end_to_end(table: str, tmp_path: Path) -> None:
    given = ("--paper", table, "--model", "tiny", "--limit", 4, "--output", tmp_path, "--device", "cpu")
    result = call("eval", *given, "--latency", "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert "paper" in result.stdout and "ours" in result.stdout and "EvoPrune" in result.stdout
    assert "not measured" not in result.stdout.split("ours")[1].split("\n")[0]


def test_crashes_are_told_and_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner: Any = Scripted(crashes="grid")
    monkeypatch.setattr(command, "_runner", lambda *_: runner)
    given = ("--tasks", "tiny_scenes", "--methods", "evoprune", "--keep", 0.25)
    result = call("eval", "tiny", *given, "--output", tmp_path)
    assert isinstance(result.exception, RuntimeError) and "out of memory" in str(result.exception)
    result = call("eval", "tiny", *given, "--output", tmp_path, "--keep-going")
    assert result.exit_code == 1 and "grid_0.25 crashed: RuntimeError: out of memory" in result.stderr
    runner.crashes = ""
    assert call("eval", "tiny", *given, "--output", tmp_path).exit_code == 0
    assert runner.ran[-1] == "tiny_scenes grid_0.25"


def test_stopped_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Scripted):
        def run(self, task, arm, advance):
            if arm.method == "grid":
                raise KeyboardInterrupt
            return super().run(task, arm, advance)

    monkeypatch.setattr(command, "_runner", lambda *_: Stopped())
    result = call("eval", "tiny", "--output", tmp_path)
    assert result.exit_code == 130 and "Stopped: 5 of 7 cells are done" in result.stderr


def test_a_cell_that_leaves_the_program_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lmms-eval does where a video is missing."""

    class Leaving(Scripted):
        def run(self, task, arm, advance):
            if arm.method == "grid":
                raise SystemExit("video is missing")
            return super().run(task, arm, advance)

    monkeypatch.setattr(command, "_runner", lambda *_: Leaving())
    result = call("eval", "tiny", "--output", tmp_path, "--keep-going")
    assert result.exit_code == 1 and "SystemExit: video is missing" in result.stderr
    assert len(list((tmp_path / "cells" / "tiny_scenes").iterdir())) == 6


def test_results_that_can_only_be_read_are_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", deny)
    result = call("eval", "--report", "--output", folder)
    assert result.exit_code == 0 and "12 questions" in result.stdout


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "_runner", lambda *_: Scripted())
    result = call("eval", "tiny", "--output", tmp_path / "file" / "out")
    refused(result, "cannot be written", "choose another folder")


def test_lmms_eval_s_warnings_stay_off_the_output(tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval", reason="needs the extra 'eval'")
    given = ("--harness", "lmms-eval", "--methods", "full", "--no-sanity", "--gen-kwargs", "max_new_tokens=2", "--json")
    result = evaluate("tiny", tmp_path, "--tasks", "tiny_scenes", *given, limit=2)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["summary"]["tasks"]["tiny_scenes"]["questions"] == 2


def test_blank_answers_are_counted_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_runner", lambda *_: Scripted(questions=30))
    result = call("eval", "tiny", "--output", tmp_path)
    assert result.exit_code == 0 and "empty" in result.stdout and "warning" in result.stdout
    counts = {
        one["name"]: one["empty"]
        for one in json.loads((tmp_path / "summary.json").read_text())["tasks"]["tiny_scenes"]["arms"]
    }
    assert counts["full"] == 0 and counts["grid"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("no model to evaluate",)),
        (("tiny", "--model", "tiny"), ("two models",)),
        (("tiny", "--methods", "evoprun"), ("did you mean 'evoprune'",)),
        (("tiny", "--tasks", "tiny_scene"), ("did you mean 'tiny_scenes'",)),
        (("tiny", "--keep", "half"), ("--keep 'half'",)),
        (("tiny", "--keep", "0"), ("keep",)),
        (("tiny", "--limit", "0"), ("--limit 0",)),
        (("tiny", "--harness", "vlmevalkit"), ("unknown --harness",)),
        (("tiny", "--attention", "flash"), ("unknown --attention",)),
        (("tiny", "--set", "position=original"), ("did you mean 'positions'",)),
        (("tiny", "--set", "positions=somewhere"), ("positions",)),
        (("tiny", "--schedule", "skipp"), ("schedule",)),
        (("tiny", "--paper", "table9"), ("table9", "table1")),
        (("tiny", "--paper", "table1", "--keep", "64"), ("leave --keep out",)),
        (("tiny", "--paper", "table1", "--tasks", "tiny_clips"), ("tiny_clips is not in table1",)),
        (("--paper", "table2"), ("LLaVA-Video-7B-Qwen2 cannot be loaded as it is", "convert_llava_video.py")),
        (("tiny", "--attention", "eager"), ("--attention eager is for lmms-eval",)),
        (("tiny", "--tasks", ","), ("--tasks ',' names nothing",)),
        (("tiny", "--harness", "lmms-eval", "--dtype", "float31"), ("float31",)),
        (("tiny", "--base", "llava_hf"), ("--base is for lmms-eval",)),
        (("tiny", "--tasks", "tiny_clips", "--harness", "batched"), ("tiny_clips on tiny",)),
        (("nowhere/at/all", "--tasks", "tiny_scenes"), ("nowhere/at/all",)),
        (("tiny", "--export", __file__), ("is a file",)),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_run(
    arguments: tuple[object, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_runner", lambda *_: pytest.fail("a runner is made"))
    refused(call("eval", *arguments, "--output", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_data_is_looked_for_before_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lmms_eval", reason="needs the extra 'eval'")
    monkeypatch.setattr(command, "_runner", lambda *_: pytest.fail("a runner is made"))
    refused(call("eval", "tiny", "--tasks", "mme", "--output", tmp_path / "out"), "lmms-lab-encoder/MME")


def samples(path: Path, scores: list[float]) -> Path:
    rows = [
        {
            "doc_id": number,
            "input": f"What is {number}?",
            "target": "7",
            "filtered_resps": ["7" if score else "1"],
            "score": score,
        }
        for number, score in enumerate(scores)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_compare(tmp_path: Path) -> None:
    first = samples(tmp_path / "first/samples_mme.jsonl", [1, 1, 0, 0, 1, 1, 1, 1])
    second = samples(tmp_path / "second/samples_mme.jsonl", [1, 0, 1, 0, 0, 1, 1, 0])
    result = call("compare", first, second)
    assert result.exit_code == 0, result.output
    shown = json.loads(call("compare", first, second, "--json").stdout)
    assert shown["difference"][0] == pytest.approx(-0.25)
    assert json.loads(call("compare", first, first, "--json").stdout)["difference"] == [0.0, 0.0, 0.0]
    refused(call("compare", first, samples(tmp_path / "short/samples_mme.jsonl", [1])), "question")
    refused(call("compare", first, tmp_path / "nothing.jsonl"), "nothing.jsonl")
