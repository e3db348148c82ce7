"""Two processes by torchrun: the same answers as one, and an error of one that none of them waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")
pytest.importorskip("decord", reason="llava_hf of lmms-eval needs decord")

from tests.evaluate import lmms_case as case
from tests.evaluate.lmms_case import Row
from tests.families.case import Picture

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from evoprune.evaluate import catalogue
from evoprune.evaluate.arms import Arm
from evoprune.evaluate.lmms.runner import LmmsEval
from evoprune.pruners import UniformGrid
from tests.evaluate import lmms_case as case

model, folder, out = sys.argv[1:]
rank = int(os.environ["RANK"])
results = case.evaluate("evoprune", Path(folder), model_args=f"pretrained={model},method=grid,keep=16", batch_size=1)
if results is not None:
    told = {"texts": case.texts(results), "throughput": results["throughput"]}
    (Path(out) / "plugin.json").write_text(json.dumps(told))

catalogue.include_paths = lambda tasks, limit: [Path(folder)]
catalogue.generation = lambda task: {}
runner = LmmsEval(model, base="auto", batch=2)
asked = []
outcome = runner.run(case.TASK, Arm("grid", 16), asked.append)
told = {"main": runner.main, "texts": [one.text for one in outcome.answers], "tokens": outcome.tokens, "asked": asked}
whole = UniformGrid.select

def broken(self, view, keep):
    if rank == 1:
        raise KeyError("broken on purpose")
    return whole(self, view, keep)

UniformGrid.select = broken
try:
    runner.run(case.TASK, Arm("grid", 4), lambda n: None)
except Exception as error:
    told["error"] = f"{type(error).__name__}: {error}"
UniformGrid.select = whole
told["after"] = [one.text for one in runner.run(case.TASK, Arm("grid", 16), lambda n: None).answers]
(Path(out) / f"runner{rank}.json").write_text(json.dumps(told))
"""


def test_two_processes_answer_like_one(tmp_path: Path) -> None:
    model = case.save("llava", tmp_path / "model")
    rows = [Row(f"what is {i}?", [Picture(32, 32, i)] * (1 + i % 2)) for i in range(4)] + [
        Row("none?")
    ]  # an odd number
    folder = case.write_task(tmp_path / "task", rows)
    alone = case.texts(case.evaluate(case.build(f"pretrained={model},method=grid,keep=16"), folder))

    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run(
        [*launch, str(script), model, str(folder), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]

    plugin = json.loads((tmp_path / "plugin.json").read_text())
    assert plugin["texts"] == alone
    told = plugin["throughput"]  # of both processes, and without the request that fills up the shorter share
    assert told["avg_prompts"] == 5 and told["avg_text_only_prompts"] == 1 and told["avg_visual_tokens"] == 24

    first, second = (json.loads((tmp_path / f"runner{rank}.json").read_text()) for rank in (0, 1))
    assert first["main"] and not second["main"] and second["texts"] == second["after"] == []
    assert first["texts"] == first["after"] == alone and first["tokens"] == 24
    assert max(first["asked"]) == len(rows) and first["asked"] == sorted(first["asked"])
    assert first["error"] == "RuntimeError: process 1 failed: KeyError: 'broken on purpose'"
    assert second["error"] == "KeyError: 'broken on purpose'"
