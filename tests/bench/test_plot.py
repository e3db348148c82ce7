"""Plots of results: what they show, that they come out the same, and what is refused."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pytest

from evoprune.bench import plot
from tests.bench.resultfiles import arm, cell, result, video

pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")


def sweep(*counts: int) -> dict[str, Any]:
    def one(frames: int) -> dict[str, Any]:
        arms = [arm("native", 0.1 * frames, stages="all"), arm("evoprune 64", 0.05 * frames, stages="all")]
        return cell(arms, frames=frames)

    return result([one(frames) for frames in counts], stages="all")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they are saved."""
    figures: list[Any] = []
    save = plot.save
    monkeypatch.setattr(plot, "save", lambda p, figure, path: (figures.append(figure), save(p, figure, path)))
    return figures


def test_bars_add_up_and_the_selection_is_hatched(tmp_path: Path, drawn: list[Any]) -> None:
    plot.stages(video(), tmp_path / "stages.svg")
    (axis,) = drawn[0].axes
    ends = {}
    for container in axis.containers:
        for row, bar in enumerate(container.patches):
            ends[row] = max(ends.get(row, 0.0), bar.get_x() + bar.get_width())
    assert ends[0] == pytest.approx(1.1) and ends[2] == pytest.approx(0.605)  # encoder and projector, in seconds
    hatches = {container.get_label(): container.patches[0].get_hatch() for container in axis.containers}
    assert hatches == {"encoder": "", "selection": "////", "projector and pooling": ""}
    assert [text.get_text() for text in axis.get_yticklabels()][:3] == ["native", "native-read", "evoprune 64"]
    assert axis.get_xlabel().startswith("s, median of 5 runs; beside the bars: share of native without unread")
    assert axis.texts[2].get_text().strip() == "0.57"


def test_a_panel_a_cell_and_the_prefill_where_it_was_measured(tmp_path: Path, drawn: list[Any]) -> None:
    plot.stages([sweep(4, 8), video()], tmp_path / "stages.png")
    assert len(drawn[0].axes) == 3
    labels = [container.get_label() for container in drawn[0].axes[0].containers]
    assert labels == ["preprocessing", "encoder", "projector and pooling", "LLM prefill"]


def test_frames_are_a_line_an_arm(tmp_path: Path, drawn: list[Any]) -> None:
    plot.frames(sweep(64, 4, 8), tmp_path / "frames.svg")
    (axis,) = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert [x for x, _ in lines["native"]] == [4, 8, 64] and len(lines) == 2
    assert lines["evoprune 64"][0][1] == pytest.approx(0.05 * 4 * 3.2)  # preprocessing, encoder, projector, prefill
    assert axis.get_xlabel() == "frames" and axis.get_ylabel() == "first token, s"


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_equal_results_give_equal_files(tmp_path: Path, ending: str) -> None:
    for number in (1, 2):
        plot.stages(video(), tmp_path / f"{number}.{ending}")
    assert (tmp_path / f"1.{ending}").read_bytes() == (tmp_path / f"2.{ending}").read_bytes()
    if ending == "svg":
        assert not re.search(r"<dc:date>", (tmp_path / "1.svg").read_text())


def test_arms_that_failed_are_not_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    failed = {**arm("tome 64", 1.0), "seconds": {}, "error": "out of memory"}
    plot.stages(result([cell([arm("native", 1.0), failed])]), tmp_path / "a.svg")
    assert [text.get_text() for text in drawn[0].axes[0].get_yticklabels()] == ["native"]
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.stages(result([cell([failed])]), tmp_path / "b.svg")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 number\(s\) of frames.*--frames 4,64"):
        plot.frames(sweep(4), tmp_path / "a.svg")
    with pytest.raises(ValueError, match=r"ending '\.jpg': a plot is \.svg"):
        plot.stages(video(), tmp_path / "a.jpg")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"pip install 'evoprune\[plots\]'"):
        plot.stages(video(), tmp_path / "a.svg")
