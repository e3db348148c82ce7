"""`evoprune bench` from outside: tables, files, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from evoprune.bench import memory, published, run
from evoprune.bench.published import PRESETS
from evoprune.cli import app
from tests.bench.small import small

QUICK = ("--stages", "encoder", "--keep", 48, "--repeats", 1, "--device", "cpu")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])


def refused(result: Result, *words: str) -> None:
    """One sentence on stderr that holds `words`, nothing on stdout, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be measured."""

    def bench(*arguments: Any, **settings: Any) -> None:
        pytest.fail("a mistake was found only after the model had been built")

    monkeypatch.setattr(run, "bench", bench)


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two presets of a size for tests."""
    for name in ("llava-1.5-7b", "llava-video-7b"):
        monkeypatch.setitem(published.PRESETS, name, small(name))


def test_tables_and_files(tmp_path: Path) -> None:
    files = tmp_path / "out.json", tmp_path / "out.csv", tmp_path / "out.png"
    arguments = ("tiny", *QUICK, "--methods", "evoprune,random", "--naive", "--json", files[0])
    result = call(*arguments, "--csv", files[1], "--plot", files[2])
    assert result.exit_code == 0, result.output
    names = ["native", "native-read", "evoprune 48", "evoprune 48 naive", "random 48"]
    assert all(name in result.stdout for name in names)
    data = json.loads(files[0].read_text())
    assert data["format"] == "evoprune.bench/1" and data["preset"] is None and data["dtype"] == "float32"
    assert [[arm["name"] for arm in cell["arms"]] for cell in data["cells"]] == [names]
    assert {row["arm"] for row in csv.DictReader(files[1].open())} == set(names)
    assert files[2].read_bytes().startswith(b"\x89PNG")

    before = files[0].read_text()
    again = call(*arguments)
    assert again.exit_code == 0 and "random 48" in again.stdout and files[0].read_text() == before
    more = call(*arguments, "--images", "1,2")
    assert more.exit_code == 0, more.output
    cells = json.loads(files[0].read_text())["cells"]
    assert cells[:1] == data["cells"] and [cell["images"] for cell in cells] == [1, 2]
    refused(call(*arguments, "--seed", 1), "other settings (seed)", "--overwrite")


def test_json_on_stdout_is_alone() -> None:
    result = call("tiny-video", *QUICK, "--keep", 9, "--frames", 2, "--no-native-read", "--json", "-")
    assert result.exit_code == 0, result.output
    (cell,) = json.loads(result.stdout)["cells"]
    assert cell["frames"] == 2 and cell["images"] is None
    assert [arm["visual_tokens"] for arm in cell["arms"]] == [2 * 25 + 1, 2 * 9 + 1]


@pytest.mark.usefixtures("presets")
def test_a_preset_runs_without_anything_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    settings = ("--keep", "0.6", "--methods", "evoprune,grid", "--repeats", 1, "--decode-tokens", 1, "--device", "cpu")
    result = call("llava-1.5-7b", *settings, "--batch", "1,2", "--set", "neighbors=3", "--json", file)
    assert result.exit_code == 0, result.output
    data = json.loads(file.read_text())
    assert data["preset"]["citation"] == "llava-hf/llava-1.5-7b-hf" and data["stages"] == "all"
    assert [cell["batch"] for cell in data["cells"]] == [1, 2]
    pruned = data["cells"][1]["arms"][2]
    assert pruned["pruner"]["neighbors"] == 3 and pruned["visual_tokens"] == 2 * 38
    assert {"preprocess", "prefill", "ttft", "decode"} <= set(pruned["seconds"])


@pytest.mark.usefixtures("presets")
def test_frames_and_half_precision(tmp_path: Path) -> None:
    files = tmp_path / "out.json", tmp_path / "out.png"
    settings = (*QUICK, "--keep", 32, "--dtype", "bfloat16", "--option", "pool=average")
    result = call("llava-video-7b", *settings, "--frames", "1,2", "--json", files[0], "--plot", files[1])
    assert result.exit_code == 0, result.output
    data = json.loads(files[0].read_text())
    assert data["dtype"] == "bfloat16" and [cell["frames"] for cell in data["cells"]] == [1, 2]
    assert (tmp_path / "out-frames.png").exists()


def test_presets_are_listed() -> None:
    result = call("--list")
    assert result.exit_code == 0
    for preset in PRESETS.values():
        assert preset.name in result.stdout and preset.citation in result.stdout
    listed = json.loads(call("--list", "--json", "-").stdout)["presets"]
    assert [one["name"] for one in listed] == list(PRESETS)


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("there is nothing to measure",)),
        (("llava-1.5-8b",), ("unknown preset 'llava-1.5-8b'", "did you mean 'llava-1.5-7b'?")),
        (("tiny", "--repeats", 0), ("--repeats 0 measures nothing",)),
        (("tiny", "--warmup", -1), ("--warmup -1 is too small",)),
        (("tiny", "--threads", 0), ("--threads 0 is too small",)),
        (("tiny", "--methods", "evoprun"), ("unknown method 'evoprun'", "did you mean 'evoprune'?")),
        (("tiny", "--methods", ","), ("--methods ',' names nothing",)),
        (("tiny", "--keep", "48,48"), ("--keep 48,48 names one twice",)),
        (("tiny", "--keep", "many"), ("--keep 'many' is no number",)),
        (("tiny", "--keep", 1000), ("keep=1000 is above the 196 tokens",)),
        (("tiny", "--keep", "48,1000", "--methods", "evoprune,random"), ("keep=1000 is above the 196 tokens",)),
        (("tiny", "--images", 0), ("--images 0 shows the model nothing",)),
        (("tiny", "--images", "one"), ("--images 'one' is no list of numbers",)),
        (("tiny", "--images", 1, "--frames", 2), ("either pictures or a video",)),
        (("tiny", "--frames", 2), ("is shown pictures here, no videos",)),
        (("tiny", "--stages", "encoder", "--methods", "dart"), ("dart acts inside the language model",)),
        (("tiny", "--stages", "encode"), ("unknown --stages 'encode'", "did you mean 'encoder'?")),
        (("tiny", "--attention", "flash"), ("unknown --attention 'flash'",)),
        (("tiny", "--encoder-mode", "graph"), ("unknown --encoder-mode 'graph'",)),
        (("tiny", "--encoder-mode", "cudagraph", "--device", "cpu"), ("needs a CUDA device",)),
        (("tiny", "--dtype", "int8"), ("--dtype 'int8' is unknown",)),
        (("tiny", "--set", "neighbours=3"), ("unknown setting of evoprune 'neighbours'",)),
        (("tiny", "--option", "pool=average"), ("LLaVA-1.5 has no options",)),
        (("llava-video-7b", "--option", "pool=mean", "--frames", 1, "--stages", "encoder"), ("unknown pool 'mean'",)),
        (("tiny", "--json", "nowhere/out.json"), ("nowhere/out.json cannot be written",)),
        (("tiny", "--csv", "nowhere/out.csv"), ("nowhere/out.csv cannot be written",)),
        (("tiny", "--plot", "nowhere/out.png"), ("nowhere/out.png cannot be written",)),
        (("tiny", "--plot", "out.txt"), ("does not end in .png or .svg or .pdf",)),
        (("./nothing/here",), ("does not exist",)),
    ],
    ids=lambda value: " ".join(map(str, value))[:60],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_measured(arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
    refused(call(*arguments), *words)


@pytest.mark.usefixtures("unbuilt")
def test_a_file_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    file.write_text("[]")
    refused(call("tiny", "--json", file), "notes.json exists and is no result", "--overwrite")
    assert file.read_text() == "[]"


@pytest.mark.usefixtures("unbuilt")
def test_a_preset_beyond_the_memory_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 2**30)
    arguments = ("llava-1.5-7b", "--device", "cpu", "--dtype", "bfloat16")
    refused(call(*arguments), "needs about 13.", "1.0 GiB are free", "--stages encoder", "--dtype bfloat16")


@pytest.mark.usefixtures("unbuilt", "presets")
def test_a_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else found(name))
    refused(call("llava-1.5-7b", "--plot", tmp_path / "out.png"), "matplotlib", "evoprune[plots]")


def test_threads_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert call("tiny", *QUICK, "--threads", 3, "--json", "-").exit_code == 0
    assert asked == [3]
