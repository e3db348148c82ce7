"""The batch examples on the embedded model: killed in the middle of a write, they lose and repeat nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import evoprune
from evoprune.tiny.benchmark import examples, picture, prompt

from . import checkpoints

EXAMPLES = Path(__file__).parents[3] / "examples"
QUESTIONS = 12
KEEP = 49
OPTIONS = ["--keep", str(KEEP), "--max-tokens", "4", "--chunk", "4"]
BROKEN, LONG, MISSING = 3, 5, 10  # rows that fail

# Answers all rows, then begins anew with the same engine and dies within the write of its second chunk.
KILLED = """
import os, runpy, signal, sys
sys.path.insert(0, {examples!r})
import batch_rows, offline_batch, vllm

llm = vllm.LLM
made = []
vllm.LLM = lambda **options: made[0] if made else made.append(llm(**options)) or made[0]
sys.argv[1:] = {whole!r}
assert offline_batch.main() == 1

def append(answers, rows, real=batch_rows.Answers.append):
    if answers.finished:
        text = batch_rows.written(rows)
        answers._file.write(text[: len(text) // 2 + 5])
        answers._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(answers, rows)

batch_rows.Answers.append = append
sys.argv[1:] = {cut!r}
offline_batch.main()
"""


def arguments(folder: Path, output: str) -> list[str]:
    return ["tiny", str(folder / "rows.jsonl"), "-o", str(folder / output), *OPTIONS]


def start(*words: str) -> subprocess.CompletedProcess[str]:
    # Ray reports its use, and gives way to every other process.
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, **ray}, timeout=1800
    )


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, all of them answered in whole.jsonl, and cut.jsonl of a run that was killed."""
    folder = tmp_path_factory.mktemp("batch")
    with open(folder / "rows.jsonl", "w") as file:
        for i, one in enumerate(examples("test")[:QUESTIONS]):
            picture("test", one.scene).image().save(folder / f"{one.scene}.png")
            image = {BROKEN: "broken.png", MISSING: "missing.png"}.get(i, f"{one.scene}.png")
            asked = "long " * 600 if i == LONG else one.question
            file.write(json.dumps({"id": f"q{i}", "image": image, "prompt": asked}) + "\n")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    whole, cut = arguments(folder, "whole.jsonl"), arguments(folder, "cut.jsonl")
    done = start("-c", KILLED.format(examples=str(EXAMPLES), whole=whole, cut=cut))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    return folder


def test_the_killed_run_left_half_a_line(folder: Path) -> None:
    text = (folder / "cut.jsonl").read_bytes()
    assert text.count(b"\n") >= 4 and not text.endswith(b"\n")


def test_the_same_command_goes_on(folder: Path) -> None:
    output = folder / "resumed.jsonl"
    for end in ("", ".run.json"):
        Path(f"{output}{end}").write_bytes((folder / f"cut.jsonl{end}").read_bytes())
    done = start(str(EXAMPLES / "offline_batch.py"), *arguments(folder, "resumed.jsonl"))
    assert done.returncode == 1, done.stderr[-2000:]
    assert f"{QUESTIONS} rows, {QUESTIONS - 3} answers, 3 errors" in done.stdout
    assert output.read_bytes() == (folder / "whole.jsonl").read_bytes()


def test_failures_are_recorded_and_touch_no_other_row(folder: Path) -> None:
    found = lines(folder / "whole.jsonl")
    errors = {row["id"]: row["error"] for row in found if "error" in row}
    assert set(errors) == {f"q{i}" for i in (BROKEN, LONG, MISSING)}
    assert "broken.png is" in errors[f"q{BROKEN}"] and "does not exist" in errors[f"q{MISSING}"]
    assert "maximum context length" in errors[f"q{LONG}"]


def test_answers_are_those_of_the_model_pruned_without_a_server(folder: Path) -> None:
    _, model, processor = checkpoints.embedded("image")
    asked = examples("test")[:QUESTIONS]
    compared = 0
    with evoprune.apply(model, evoprune.EvoPrune(keep=KEEP)):
        for row, one in zip(lines(folder / "whole.jsonl"), asked, strict=True):
            if "error" in row:
                continue
            inputs = processor(
                text=prompt(processor, one.question), images=picture("test", one.scene).image(),
                return_tensors="pt", add_special_tokens=False,
            )  # fmt: skip
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            new = output[0, inputs["input_ids"].shape[1] :]
            assert row["answer"] == processor.decode(new, skip_special_tokens=True).strip()
            full = inputs["input_ids"].shape[1]
            assert row["prompt_tokens"] == full - int((inputs["input_ids"] == model.config.image_token_id).sum()) + KEEP
            compared += 1
    assert compared == QUESTIONS - 3


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'ray[data]'")
def test_ray_goes_on_with_the_killed_run(folder: Path) -> None:
    output = folder / "ray.jsonl"
    for end in ("", ".run.json"):
        Path(f"{output}{end}").write_bytes((folder / f"cut.jsonl{end}").read_bytes())
    done = start(str(EXAMPLES / "ray_batch.py"), *arguments(folder, "ray.jsonl"), "--cpu")
    assert done.returncode == 1, done.stderr[-2000:]
    found, expected = lines(output), lines(folder / "whole.jsonl")
    assert found[:4] == expected[:4]  # of the killed run
    for rows in (found, expected):  # vLLM says it otherwise of a prompt that comes as tokens
        (long,) = (row for row in rows if row["id"] == f"q{LONG}")
        assert "512" in long.pop("error")
    assert sorted(found, key=str) == sorted(expected, key=str)
