"""A sweep of the embedded model that is killed at ten random points ends in the same summary as an undisturbed one."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest

from evoprune.evaluate.arms import arms
from evoprune.evaluate.embedded.runner import Embedded
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.sweep import Watcher, sweep

pytest.importorskip("scipy", reason="statistics need the extra 'eval'")

KILLS = 10
MODEL = [
    f"transformers.models.{name}"
    for name in (
        "auto.modeling_auto",
        "auto.processing_auto",
        "clip.modeling_clip",
        "llama.modeling_llama",
        "llava.modeling_llava",
        "llava.processing_llava",
    )
]  # what takes most of the seconds of loading
CELLS = [("tiny_scenes", arm) for arm in arms(["evoprune", "fastervlm"], [0.25, 0.125])]


def run(path: Path, die_at: int, counter: multiprocessing.Value) -> None:
    """Sweep and summarise; count answers, syncs and renames, and kill the process at one of them."""
    from evoprune.evaluate.summary import summarise

    def counted(original):
        def call(*arguments):
            counter.value += 1
            if counter.value == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return call

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    watcher = Watcher()
    watcher.advance = counted(lambda answered: None)
    runner = Embedded("tiny", limit=10, batch=5)
    with Folder(path, runner.configuration()) as folder:
        folder.begin({"command": "test"})
        sweep(runner, CELLS, folder, watcher)
        folder.write_json("summary.json", summarise(folder))


def in_process(path: Path, die_at: int = 0) -> tuple[int, int]:
    """Exit code of a sweep in a process of its own, and its number of events.

    Not forked from this process: torch's thread pool, once used by another test, does not survive that. A server that
    has imported this module and computed nothing is forked instead.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, *MODEL])
    counter = server.Value("i", 0)
    child = server.Process(target=run, args=(path, die_at, counter))
    child.start()
    child.join(300)
    return child.exitcode, counter.value


def test_ten_kills_change_nothing(tmp_path):
    code, events = in_process(tmp_path / "whole")
    assert code == 0
    dice = random.Random(11)
    # A point of the whole sweep each; later ones come sooner, as a killed run leaves less to do.
    points = sorted(dice.sample(range(1, events + 1), KILLS))
    for before, point in zip([0, *points], points, strict=False):
        code, _ = in_process(tmp_path / "out", max(1, point - before))
        assert code == -signal.SIGKILL
    assert in_process(tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    names = sorted(str(f.relative_to(tmp_path / "whole")) for f in (tmp_path / "whole").rglob("*.json*"))
    assert sorted(str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*.json*")) == names
    for name in names:
        if name.startswith("answers"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["sanity"] is True and len(summary["tasks"]["tiny_scenes"]["arms"]) == 1 + 5 * 2
