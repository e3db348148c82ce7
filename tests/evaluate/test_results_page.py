"""docs/results.md: equal to what the committed folders give, and its sentences follow from the numbers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
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
        for name in ("results", "results_words", "results_harness"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def words(page: Any) -> Any:
    return sys.modules["results_words"]


def build(path: Path, task: str, scores: dict[str, str], times: bool = True) -> None:
    """A folder as the command leaves it: at 1/4 and 1/2 the same, but for one arm that was refused."""
    cells = [(Arm(FULL), results_case.bits(ALL))]
    for keep in (0.5, 0.25):
        cells += results_case.at(keep, scores)
    cells.append((Arm("tome", 0.25), "too few layers"))
    results_case.build(path / task, {task: cells}, size=1)
    with Folder(path / task, Folder(path / task).configuration) as folder:
        folder.begin(MANIFEST)
        folder.write_json(
            "manifest.json", [{**MANIFEST, "command": f"evoprune eval {name}"} for name in ("one", "two")]
        )
        folder.write_json("summary.json", summarise(folder))
        if times:
            base = {"kind": "native", "error": None, "times": {"ttft": {"median": 2.0}}}
            arm = {"arm": Arm("evoprune", 0.25).to_dict(), "error": None, "times": {"ttft": {"median": 1.0}}}
            told = {"machine": "a CPU", "threads": 1, "repeats": 9, "batch": 16, "frames": None, "picture": [480, 640]}
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
        if found is not None:  # rounded alike: it holds no last bits of a machine
            assert found.summary == json.loads(json.dumps(summarise(Folder(page.FOLDERS / task)))), "sum up anew"
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
    said = [line.removeprefix("  - ") for line in half.splitlines()[1:]]
    assert said[0] == "Before the LLM, beside random: ahead: `evoprune`."
    assert said[1].startswith("Before the LLM, highest: `evoprune` with 1.000 [")
    assert said[2] == "Inside the LLM, at more tokens, beside random: not told apart: `fastv`."
    assert said[3].startswith("Down-sampled input (0.667) is above `fastv`") and "evoprune" not in said[3]
    assert said[4].startswith("Of the 8 questions that down-sampling loses (group A) methods keep 0.500 to 1.000")
    assert "random 0.500 [" in said[4]
    assert len(quarter.splitlines()) == len(half.splitlines())


def test_fewer_frames_that_win_are_named(page: Any, folders: Path) -> None:
    _, half, _ = page.findings(page.load("tiny_clips", folders))
    assert "beside random: behind: `evoprune`" in half
    assert "Before the LLM, highest: `frames`" in half
    assert "Fewer whole frames (1.000) are above `evoprune`, `fastv`, told apart; of the baselines above" in half


def entry(name: str, value: float, **more: Any) -> dict[str, Any]:
    found = {"arm": Arm(name, 0.5).to_dict(), "name": name, "accuracy": [value, 0, 1], "group_a": None}
    return {**found, "tokens": 16.0, "layers": [], "ahead_of": [], "behind": [], **more}


def test_told_apart_is_what_the_corrected_comparison_says_and_no_rank(words: Any) -> None:
    """Ranks that do not touch may come from other arms: these two were told apart by no comparison of their own."""
    noisy, far = entry("evoprune", 0.6, rank=[2, 2]), entry("tome", 0.5, rank=[3, 3])
    simple = entry("downsample", 0.65, rank=[1, 1], ahead_of=[words.slug(far)])
    (said,) = words._simpler([simple, noisy, far])
    assert said == "Down-sampled input (0.650) is above `evoprune`, `tome`, told apart from `tome`."
    (said,) = words._simpler([simple, noisy])
    assert said == "Down-sampled input (0.650) is above `evoprune`, not told apart."
    (_, said) = [*words._place([simple, noisy, far, entry("random", 0.3)], "Before", ("encoder", "feature")), ""][::-1]
    assert "highest: `downsample` with 0.650" in said and "not told apart from it: `evoprune`, `random`." in said
    (said,) = words._simpler([entry("downsample", 0.1), noisy])
    assert said == "Down-sampled input (0.100) is above no method."


def test_sanity_baselines_below_are_named_apart(words: Any) -> None:
    first = entry("first", 0.3)
    simple = entry("downsample", 0.5, ahead_of=[words.slug(first)])
    (said,) = words._simpler([simple, entry("evoprune", 0.7), first])
    assert said == "Down-sampled input (0.500) is above no method, but of the baselines above `first`, told apart."


def test_frames_with_more_tokens_than_the_budget_say_so(words: Any) -> None:
    arms = [entry("frames", 0.5, tokens=25.0), entry("random", 0.6), entry("evoprune", 0.4)]
    (said,) = words._simpler(arms)
    assert said.startswith("Fewer whole frames (0.500 at 25 tokens, more than random's 16) are above `evoprune`")
    (said,) = words._simpler([entry("frames", 0.5, tokens=16.0), *arms[1:]])
    assert said.startswith("Fewer whole frames (0.500) are")


def test_methods_inside_the_model_are_told_apart_from_those_before_it_with_their_tokens(words: Any) -> None:
    inside = {"tokens": 200.0, "layers": [200.0, 50.0, 50.0, 50.0]}
    arms = [entry("evoprune", 0.7), entry("tome", 0.6), entry("fastv", 0.9, **inside), entry("dart", 0.8, **inside)]
    said = [one for place in words.PLACES for one in words._place(arms, *place)]
    assert said[0].startswith("Before the LLM, highest: `evoprune` with 0.700") and "fastv" not in said[0]
    assert said[1].startswith("Inside the LLM, at more tokens, highest: `fastv` (mean 125 tokens) with 0.900")


def test_marks_are_of_the_comparison_with_random_in_the_same_run(words: Any) -> None:
    one = {"baselines": {"random": "random_0.5"}}
    assert words.mark(entry("evoprune", 0.7, ahead_of=["random_0.5"], **one)) == 1
    assert words.mark(entry("evoprune", 0.7, behind=["random_0.5"], **one)) == -1
    assert words.mark(entry("evoprune", 0.7, ahead_of=["random_0.25"], ahead_of_random=[0.1, 0.05, 0.2], **one)) == 0
    old = entry("evoprune", 0.7, ahead_of_random=[0.1, 0.05, 0.2], rank=[1, 1])
    assert words.mark({name: value for name, value in old.items() if name not in ("ahead_of", "behind")}) == 0


def test_the_commands_are_those_of_the_manifest(page: Any, folders: Path) -> None:
    result = page.load("tiny_scenes", folders)
    text = page.commands(result)
    assert "Made by\n\n    evoprune eval one\n    evoprune eval two\n\n" in text
    assert text.endswith(f"This makes it anew, with times:\n\n    {page.COMMANDS['tiny_scenes']}")
    same = replace(result, manifest=[{"command": page.COMMANDS["tiny_scenes"]}] * 2)
    assert page.commands(same) == f"Made by\n\n    {page.COMMANDS['tiny_scenes']}"
    assert "was not noted" in page.commands(replace(result, manifest=[{}]))


def test_what_all_arms_share_is_computed(page: Any, words: Any, folders: Path) -> None:
    result = page.load("tiny_scenes", folders)
    assert words.conditions(result) == "random is the mean of 3 seeds"
    for arm in result.summary["tasks"]["tiny_scenes"]["arms"]:
        arm["arm"] = {**arm["arm"], "settings": {"positions": "original"}}
    assert words.conditions(result) == "original positions; random is the mean of 3 seeds"


def test_times_of_pictures_are_not_shown_for_videos(page: Any, folders: Path) -> None:
    times, clips = page.load("tiny_scenes", folders).latency, page.load("tiny_clips", folders)
    other = replace(clips, latency=times)
    assert not page.timed(other) and [*page._times(other)] == ["Times: not measured."]
    assert all(row.endswith("| not measured |") for row in page.overview(other)[2:])
    assert not any(name.endswith("time.svg") for name in page.pictures(other))


def test_the_overview_is_a_row_a_method_with_marks_and_time(page: Any, folders: Path) -> None:
    rows = page.overview(page.load("tiny_scenes", folders))
    assert rows[0] == "| method | 1/2 | 1/4 | overall time at 1/4 |"
    cells = {row.split(" | ")[0].removeprefix("| "): row.removesuffix(" |").split(" | ")[1:] for row in rows[2:]}
    assert cells["evoprune"] == ["1.000 ▲", "1.000 ▲", "0.50"]
    assert cells["fastv"] == ["0.500", "0.500", "not measured"] and cells["first"][0] == "0.000 ▼"
    assert cells["tome"] == ["", "refused", "not measured"]
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
    assert text.endswith("\n") and text.count("Not measured") == 2  # through lmms-eval, once a folder
    assert text.index("## How to read it") < text.index("## Pictures") < text.index("## Videos")
    assert "corrected for all pairs of arms of the budget" in text and "(results/tiny_scenes-tokens.svg)" in text


def test_pictures_are_drawn_from_the_same_folders(page: Any, folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
    found = page.load("tiny_scenes", folders)
    page.draw(found, tmp_path / "pictures")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(page.pictures(found))


def test_a_folder_without_a_summary_is_summed_up(page: Any, folders: Path, tmp_path: Path) -> None:
    build(tmp_path, "tiny_scenes", SCORES)
    (tmp_path / "tiny_scenes" / "summary.json").unlink()
    assert page.load("tiny_scenes", tmp_path).summary == page.load("tiny_scenes", folders).summary


def test_harnesses_are_compared_answer_by_answer(page: Any, tmp_path: Path) -> None:
    build(tmp_path, "tiny_scenes", SCORES)
    harness = sys.modules["results_harness"]
    assert harness.differing("tiny_scenes", tmp_path) is None
    assert "Not measured" in " ".join(harness.harness("tiny_scenes", "tiny", tmp_path))
    other = tmp_path / f"tiny_scenes{harness.SUFFIX}"
    shutil.copytree(tmp_path / "tiny_scenes", other)
    same = harness.differing("tiny_scenes", tmp_path)
    assert set(same.values()) == {(0, 24)} and len(same) == 1 + 2 * (len(SCORES) + 2) and "tome 0.25" not in same
    file = other / "answers" / "tiny_scenes" / f"{Arm('fastv', 0.25).slug}.jsonl"
    lines = file.read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "text": "another"})
    file.write_text("\n".join(lines) + "\n")
    told = list(harness.harness("tiny_scenes", "tiny", tmp_path))[-1]
    assert "1 differ" in told and "`fastv 0.25` 1 of 24" in told
