"""The page docs/performance.md: what it says of the goals, and that it is up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.bench.resultfiles import MANIFEST, arm, cell, result, save, video

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report() -> Any:
    """The script, imported as it imports its neighbours."""
    places = [str(ROOT / "benchmarks"), str(ROOT / "docs")]
    sys.path[:0] = places
    try:
        import report

        yield report
    finally:
        for place in places:
            sys.path.remove(place)
        for name in ("report", "goals", "readme", "measured"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def goals(report: ModuleType) -> Any:
    return sys.modules["goals"]


def verdicts(goals: ModuleType, *results: dict[str, Any]) -> dict[str, str]:
    """Verdict by the goal's case, of those that were measured."""
    named = {f"file{number}": one for number, one in enumerate(results)}
    found = {goal.case: goals.judge(goal, named) for goal in goals.GOALS}
    return {case: one.verdict for case, one in found.items() if one.measured != goals.NOT_MEASURED}


def gpu_video(scale: float, *, selection: float = 0.04, **changes: Any) -> dict[str, Any]:
    """64 frames of 1 s natively; the pruned encoder has 0.54 of the FLOPs."""
    arms = [
        arm("native", 1.0),
        arm("evoprune 64", scale, flops=0.54, kept=64, selection=selection),
        arm("evoprune 64 naive", 0.7, flops=0.54, kept=64, selection=0.3),
    ]
    return result([cell(arms, frames=64)], **changes)


def cpu_video(wall: float, processor: float, dtype: str = "float32") -> dict[str, Any]:
    mine = arm("evoprune 64", wall, flops=0.54, kept=64, cpu=True)
    mine["cpu_seconds"] = arm("x", processor, cpu=True)["cpu_seconds"]
    return result([cell([arm("native", 1.0, cpu=True), mine])], device="cpu", dtype=dtype)


def test_nothing_measured_is_said_of_every_goal(report: ModuleType, goals: ModuleType, tmp_path: Path) -> None:
    assert verdicts(goals) == {}
    text = report.page(report.PAGE.read_text(encoding="utf-8"), tmp_path)
    shown = text.split("<!-- goals:begin -->")[1].split("<!-- goals:end -->")[0]
    assert shown.count("| not measured | not measured |") == len(goals.GOALS) == 17
    assert text.count("Not measured.") >= 4


@pytest.mark.parametrize(("scale", "verdict"), [(0.54 * 1.05, "met"), (0.54 * 1.07, "not met")])
def test_the_encoder_may_take_so_much_more_than_its_flops(goals: ModuleType, scale: float, verdict: str) -> None:
    found = verdicts(goals, gpu_video(scale))
    assert found["H200, SigLIP so400m, 64 frames, 729 → 64: encoder"] == verdict
    assert found["H200, SigLIP so400m, 64 frames, 729 → 64: peak memory of the encoder"] == "met"
    assert len(found) == 3  # and the selection; other budgets were not measured


@pytest.mark.parametrize(("share", "verdict"), [(0.05, "met"), (0.051, "not met")])
def test_the_selection_is_a_share_of_the_pruned_encoder(goals: ModuleType, share: float, verdict: str) -> None:
    case = "H200, SigLIP so400m, 64 frames, 729 → 64: selection"
    assert verdicts(goals, gpu_video(0.55, selection=share))[case] == verdict
    goal = next(goal for goal in goals.GOALS if goal.case == case)
    assert "naive torch 30.0%" in goals.judge(goal, {"a": gpu_video(0.55)}).measured


def test_goals_are_judged_without_unread_layers_and_by_the_fastest_mode(goals: ModuleType) -> None:
    case = "H200, LLaVA-1.5-7B, 1 image, 576 → 64: pre-LLM"
    goal = next(goal for goal in goals.GOALS if goal.case == case)

    def measured(scale: float, mode: str) -> dict[str, Any]:
        arms = [arm("native", 1.0), arm("native-read", 0.9), arm("evoprune 64", scale, kept=64, encoder_mode=mode)]
        return result([cell(arms, frames=None, images=1)], model="llava-1.5-7b")

    one = goals.judge(goal, {"a": measured(0.8, "eager")})
    assert one.verdict == "not met" and one.measured.startswith("0.889")  # 0.80 of native as shipped
    both = goals.judge(goal, {"a": measured(0.8, "eager"), "b": measured(0.6, "cudagraph")})
    assert (both.verdict, both.file) == ("met", "b") and "(cudagraph)" in both.measured


def test_of_two_files_the_newer_counts(goals: ModuleType) -> None:
    old, new = gpu_video(0.5), gpu_video(0.6, manifest={**MANIFEST, "time": "2027-01-01T00:00:00+00:00"})
    assert verdicts(goals, old, new)["H200, SigLIP so400m, 64 frames, 729 → 64: encoder"] == "not met"


def test_on_one_thread_of_a_cpu_both_clocks_are_told(goals: ModuleType) -> None:
    case = "CPU, SigLIP so400m, 2 frames, 729 → 64, float32: encoder"
    assert verdicts(goals, cpu_video(0.55, 0.55))[case] == "met"
    assert verdicts(goals, cpu_video(0.60, 0.60))[case] == "not met"
    assert verdicts(goals, cpu_video(0.60, 0.55))[case] == "met by processor time, not met by wall clock"
    assert case not in verdicts(goals, cpu_video(0.55, 0.55, dtype="bfloat16"))


def test_other_cases_and_failed_arms_measure_no_goal(goals: ModuleType) -> None:
    for changes in ({"device": "cpu"}, {"dtype": "float32"}, {"model": "qwen3-vl-8b"}):
        assert verdicts(goals, gpu_video(0.55, **changes)) == {}, changes
    other = gpu_video(0.55)
    other["cells"][0]["arms"][1]["pruner"]["schedule"] = "every:4"
    assert verdicts(goals, other) == {}
    failed = gpu_video(0.55)
    failed["cells"][0]["arms"][1] = {**failed["cells"][0]["arms"][1], "error": "out of memory"}
    assert verdicts(goals, failed) == {}  # the naive path is judged by no goal


def test_the_page_shows_every_file_with_its_command_and_machine(report: ModuleType, tmp_path: Path) -> None:
    save(video(command="evoprune bench llava-video-7b --json /home/me/x/out.json"), tmp_path / "gpu_video.json")
    text = report.page(report.PAGE.read_text(encoding="utf-8"), tmp_path)
    assert "### gpu_video" in text and "evoprune bench llava-video-7b --json out.json" in text
    assert "/home/me" not in text
    assert "NVIDIA H200, torch 2.11.0, transformers 5.17.0, triton 3.6.0, commit 0123456789ab, 2026-11-21" in text
    assert "| `evoprune naive` | 0.625 (0.562), 12.0% |" in text and "| `tome` | 0.583 (0.562), 3.0% |" in text
    assert "![gpu_video: stages](performance/gpu_video-stages.svg)" in text


def test_a_file_without_any_arm_that_ran_is_shown_with_its_reason(report: ModuleType, tmp_path: Path) -> None:
    failed = {"name": "native", "kind": "native", "error": "out of memory", "attention": "sdpa"}
    save(result([cell([failed])]), tmp_path / "a.json")
    text = report.page(report.PAGE.read_text(encoding="utf-8"), tmp_path)
    assert "- native failed: out of memory" in text and "a-stages.svg" not in text


def test_profiles_and_steps_have_their_tables(report: ModuleType, tmp_path: Path) -> None:
    rows = [{"part": "MLP", "seconds": 3.0, "share": 0.75}, {"part": "other", "seconds": 1.0, "share": 0.25}]
    parts = {"native-read": rows, "evoprune 64": rows[:1]}
    profile = {"format": "evoprune.profile/1", "manifest": MANIFEST, "model": "a tower", "arms": parts}
    save(profile, tmp_path / "profile_a.json")
    steps = [{"name": "kernels", "seconds": 61, "budget": 90, "outcome": "done, 120 passed"}]
    save(
        {"format": "evoprune.gpu/1", "manifest": MANIFEST, "gpu": "NVIDIA H200, 580", "steps": steps},
        tmp_path / "g.json",
    )
    save({"format": "somebody.else/1"}, tmp_path / "other.json")
    text = report.page(report.PAGE.read_text(encoding="utf-8"), tmp_path)
    assert "| MLP | 3.000 s (75.0%) | 3.000 s (75.0%) |" in text and "| all | 4.000 s | 3.000 s |" in text
    assert "| kernels | 61 of 90 s | done, 120 passed |" in text


def test_a_result_of_another_version_is_refused(report: ModuleType, tmp_path: Path) -> None:
    save({"format": "evoprune.bench/9", "cells": []}, tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json has the format 'evoprune.bench/9'"):
        report.read(tmp_path)


def test_small_batches_list_modes_beside_each_other(report: ModuleType, tmp_path: Path) -> None:
    arms = [arm("native", 0.02), arm("evoprune 64", 0.01, kept=64, encoder_mode="cudagraph")]
    save(result([cell(arms, frames=None, images=1)], model="llava-1.5-7b"), tmp_path / "image.json")
    text = "\n".join(report.modes(report.read(tmp_path)["evoprune.bench/1"]))
    assert (
        "| cuda | bfloat16 | 1 | `evoprune 64` | skip | cudagraph | 11.0 ms | 0.500 | 0.500 | [image](#image) |" in text
    )


def test_launches_have_their_table(report: ModuleType, tmp_path: Path) -> None:
    assert report.launches(tmp_path / "none.json") == ["Launches: not measured."]
    arms = [{"name": "native", "merging": 0, "operations": 964, "computing": 471, "kernels": None, "to_native": 1.0}]
    path = save({"manifest": MANIFEST, "what": "One forward.", "arms": arms}, tmp_path / "launches.json")
    assert "| native | 0 | 964 | 471 | 1.000 |" in report.launches(path)


def test_plots_are_drawn_anew(report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
    monkeypatch.setattr(report, "PLOTS", tmp_path)
    (tmp_path / "gone-stages.svg").write_text("")
    arms = [arm("native", 1.0), arm("evoprune 64", 0.5)]
    report.draw({"sweep": result([cell(arms, frames=4), cell(arms, frames=64)])})
    assert sorted(path.name for path in tmp_path.glob("*")) == ["sweep-frames.svg", "sweep-stages.svg"]


def test_the_page_and_its_plots_are_up_to_date(report: ModuleType) -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    assert text == report.page(text), "run `python benchmarks/report.py`"
    found = report.read()[report.FORMAT]
    wanted = {f"{name}-{kind}.svg" for name, one in found.items() for kind in report.plots(one)}
    assert {path.name for path in report.PLOTS.glob("*.svg")} == wanted, "run `python benchmarks/report.py`"


def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "benchmarks" / "gpu.sh"), *words], capture_output=True, text=True, **more)


@pytest.mark.parametrize("words", [(), ("--rivals",)], ids=str)
def test_the_dry_run_lists_steps_that_fit_in_ten_minutes(words: tuple[str, ...]) -> None:
    done = run("--dry-run", *words)
    assert done.returncode == 0, done.stderr
    *steps, total = done.stdout.splitlines()
    budgets = [int(line.split()[1]) for line in steps]
    assert sum(budgets) == int(total.split()[1]) <= 570
    first = ["facts", "rivals_image", "rivals_batch"] if words else ["facts", "kernels", "video_encoder"]
    assert [line.split()[0] for line in steps][:3] == first


def test_every_step_of_the_dry_run_is_a_command_that_the_program_takes() -> None:
    import click
    import typer

    from evoprune.cli import app

    command = typer.main.get_command(app)
    bench = command.get_command(click.Context(command), "bench")  # type: ignore[attr-defined]
    small = ("--device", "cpu", "--tiny")
    for words, number in (((), 10), (small, 10), (("--rivals",), 3), (("--rivals", *small), 3)):
        called = [line.partition(" -m evoprune bench ")[2] for line in run("--dry-run", *words).stdout.splitlines()]
        lines = [line for line in called if line]
        assert len(lines) == number
        for line in lines:
            bench.make_context("bench", line.split())  # raises where an option is unknown


def test_wrong_words_are_refused_before_anything_runs() -> None:
    assert run("--device", "cpu").returncode == 2 and "needs --tiny" in run("--device", "cpu").stderr
    assert "unknown option --tinny" in run("--tinny").stderr


def test_the_facts_of_a_run_gather_its_steps(tmp_path: Path) -> None:
    script, out, steps = ROOT / "benchmarks" / "gpu_facts.py", tmp_path / "run.json", tmp_path / "steps.tsv"
    steps.write_text("facts\t9\t30\tdone\nkernels\t61\t90\tdone: 120 passed in 60 s\n")
    save({"format": "evoprune.gpu/1", "manifest": MANIFEST, "gpu": None, "steps": []}, out)
    subprocess.run([sys.executable, str(script), "--steps", str(steps), str(out)], check=True)
    assert json.loads(out.read_text())["steps"][1] == {
        "name": "kernels", "seconds": 61, "budget": 90, "outcome": "done: 120 passed in 60 s",
    }  # fmt: skip
