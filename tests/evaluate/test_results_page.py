"""docs/results.md: equal to what the committed folders give, and its sentences follow from the numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evoprune.evaluate.arms import FULL, Arm
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.summary import summarise
from tests.evaluate import results_case

ROOT = Path(__file__).parents[2]
MANIFEST = {
    "device": "a CPU", "threads": 1, "packages": {"torch": "2", "transformers": "5"}, "commit": "c" * 40,
    "changed": False,
}  # fmt: skip
ALL, HALF, NONE = "1" * 24, "10" * 12, "0" * 24
SCORES = {  # 24 questions, each about a picture of its own
    "random": f"{HALF}/{HALF}/{HALF}",
    "grid": HALF,
    "downsample": "110" * 8,
    "evoprune": ALL,
    "fastv": HALF,
    "first": NONE,
}


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import results

        yield results
    finally:
        sys.path.remove(str(ROOT / "docs"))
        sys.modules.pop("results", None)


def build(path: Path, task: str, scores: dict[str, str], times: bool = True) -> None:
    """A folder as the command leaves it: at 1/4 and 1/2 the same, but for one arm that was refused."""
    cells = [(Arm(FULL), results_case.bits(ALL))]
    for keep in (0.5, 0.25):
        cells += results_case.at(keep, scores)
    cells.append((Arm("tome", 0.25), "too few layers"))
    results_case.build(path / task, {task: cells}, size=1)
    with Folder(path / task, Folder(path / task).configuration) as folder:
        folder.begin(MANIFEST)
        folder.write_json("manifest.json", [MANIFEST, MANIFEST])
        folder.write_json("summary.json", summarise(folder))
        if times:
            base = {"kind": "native", "error": None, "times": {"ttft": {"median": 2.0}}}
            arm = {"arm": Arm("evoprune", 0.25).to_dict(), "error": None, "times": {"ttft": {"median": 1.0}}}
            told = {"machine": "a CPU", "threads": 1, "repeats": 9, "batch": 16}
            runs = [{"clock": "cpu_seconds", "bases": [base], "arms": [arm]}]
            folder.write_json("latency.json", {"format": "evoprune.latency/1", "configuration": told, "runs": runs})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval")
    build(path, "tiny_scenes", SCORES)
    build(path, "tiny_clips", {**SCORES, "frames": ALL, "evoprune": NONE}, times=False)
    return path


def test_the_committed_page_is_what_the_committed_folders_give(page: Any) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python docs/results.py"
    for task in page.COMMANDS:
        found = page.load(task)
        for name in [] if found is None else page.pictures(found):
            assert (page.PICTURES / name).exists(), "run python docs/results.py"


def test_what_has_no_folder_is_not_measured_and_the_command_is_named(page: Any, tmp_path: Path) -> None:
    text = page.page(tmp_path)
    assert text.count("Not measured: this makes the folder.") == 2
    assert all(f"    {command}\n" in text for command in page.COMMANDS.values())
    assert "![" not in text and "| method |" not in text


def test_sentences_follow_from_the_numbers(page: Any, folders: Path) -> None:
    unpruned, half, quarter = page.findings(page.load("tiny_scenes", folders))
    assert unpruned.startswith("Unpruned: 1.000 [") and unpruned.endswith("over 24 questions, 24 groups.")
    assert half.splitlines()[0] == "**1/2 of the tokens**"
    said = half.splitlines()[1:]
    assert said[0] == "  - `evoprune` is ahead of random beyond the interval; `fastv` is not told apart from it."
    assert "Highest: `evoprune` with 1.000 [" in said[1] and "`first`" not in said[1]
    assert "Down-sampled input (0.667) is above `fastv`" in said[2] and "evoprune" not in said[2]
    assert "Of the 8 questions that down-sampling loses (group A) `evoprune` keeps most: 1.000" in said[3]
    assert "random 0.500 [" in said[3]
    assert len(quarter.splitlines()) == len(half.splitlines())


def test_fewer_frames_that_win_are_named(page: Any, folders: Path) -> None:
    _, half, _ = page.findings(page.load("tiny_clips", folders))
    assert "`evoprune` is behind it" in half
    assert "Highest: `frames`" in half
    assert "Fewer whole frames (1.000) are above `evoprune`, `fastv`, beyond the interval above `evoprune`" in half


def test_a_lead_counts_as_sure_only_where_the_ranks_do_not_touch(page: Any) -> None:
    def arm(name: str, value: float, rank: list[int]) -> dict[str, Any]:
        return {"name": name, "arm": {"method": name}, "accuracy": [value, 0, 1], "rank": rank}

    simple, near, far = arm("downsample", 0.9, [1, 2]), arm("near", 0.8, [2, 3]), arm("far", 0.5, [3, 4])
    (said,) = page._simpler([simple, near, far], [near, far])
    assert said == "Down-sampled input (0.900) is above `near`, `far`, beyond the interval above `far`."
    (said,) = page._simpler([simple, near], [near])
    assert said == "Down-sampled input (0.900) is above `near`, within the interval."
    (said,) = page._simpler([arm("frames", 0.1, [4, 4]), near], [near])
    assert said == "Fewer whole frames (0.100) are above no method."


def test_the_overview_is_a_row_a_method_with_marks_and_time(page: Any, folders: Path) -> None:
    rows = page.overview(page.load("tiny_scenes", folders))
    assert rows[0] == "| method | 1/2 | 1/4 | overall time at 1/4 |"
    cells = {row.split(" | ")[0].removeprefix("| "): row.removesuffix(" |").split(" | ")[1:] for row in rows[2:]}
    assert cells["evoprune"] == ["1.000 ▲", "1.000 ▲", "0.50"]
    assert cells["fastv"] == ["0.500", "0.500", ""] and cells["first"][0] == "0.000 ▼"
    assert cells["tome"] == ["", "refused", ""]
    assert [*cells] == ["evoprune", "tome", "fastv", "random", "grid", "first", "downsample"]


def test_the_page_has_the_facts_the_tables_and_the_pictures_that_there_are(page: Any, folders: Path) -> None:
    text = page.page(folders)
    assert (
        text.count("Measured with a CPU, 1 thread, torch 2, transformers 5, commit cccccccccccc.") == 2
    )  # once a folder
    assert "Times: a CPU, processor time on 1 thread, medians of 9 rounds" in text and "Times: not measured." in text
    assert "(results/tiny_scenes-time.svg)" in text and "(results/tiny_clips-time.svg)" not in text
    assert "too few layers" in text and "random = mean of 3 seeds" in text
    assert text.count("**tiny_scenes, ") == 2  # a table a budget
    assert text.endswith("\n") and "Not measured" not in text


def test_pictures_are_drawn_from_the_same_folders(page: Any, folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
    found = page.load("tiny_scenes", folders)
    page.draw(found, tmp_path / "pictures")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(page.pictures(found))


def test_a_folder_without_a_summary_is_summed_up(page: Any, folders: Path, tmp_path: Path) -> None:
    build(tmp_path, "tiny_scenes", SCORES)
    (tmp_path / "tiny_scenes" / "summary.json").unlink()
    assert page.load("tiny_scenes", tmp_path).summary == page.load("tiny_scenes", folders).summary
