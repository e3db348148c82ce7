"""A folder of results: whole files, no mixing, no second run of a finished cell, and sentences where it cannot be."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from evoprune.evaluate.arms import Arm
from evoprune.evaluate.folder import Folder, FolderError
from evoprune.evaluate.records import Answer, Outcome, Question
from evoprune.evaluate.sweep import Watcher, sweep
from tests.evaluate.scripted import CONFIGURATION, Scripted, cells, swept

FORK = multiprocessing.get_context("fork")


def contents(path: Path) -> dict[str, str]:
    """Every file that results depend on: not the times of cells, nor the list of runs."""
    found = {}
    for file in path.rglob("*"):
        if file.is_file() and file.name not in (".lock", "manifest.json"):
            text = file.read_text()
            if file.parent.parent.name == "cells":
                text = json.dumps({k: v for k, v in json.loads(text).items() if k not in ("run", "seconds")})
            found[str(file.relative_to(path))] = text
    return found


def test_what_is_written_is_read(tmp_path):
    asked = [Question("0", "What?", "7", "digit", "a"), Question("1", "Où?", "là", "", "")]
    said = (Answer("0", "7", 1.0), Answer("1", " ", 0.5))
    arm = Arm("evoprune", 0.25, {"schedule": "mean"}, label="mine")
    with Folder(tmp_path / "out", CONFIGURATION) as folder:
        folder.ask("t", asked)
        folder.begin({"command": "test"})
        assert not folder.done("t", arm)
        folder.write("t", arm, Outcome(said, 49.0, (49.0, 12.0), {"score": 3.5}, 1.23456))
        folder.refuse("t", Arm("grid", 7), "7 is no square")
    read = Folder(tmp_path / "out")
    assert read.tasks == ["t"] and read.questions("t") == asked and read.answers("t", arm) == list(said)
    (second, two), (first, one) = read.cells("t")
    assert (first, second) == (arm, Arm("grid", 7)) and read.done("t", arm) and read.done("t", second)
    assert one["tokens"] == 49.0 and one["layers"] == [49.0, 12.0] and one["metrics"] == {"score": 3.5}
    assert one["empty"] == 1 and one["questions"] == 2 and one["run"] == 0 and two["error"] == "7 is no square"
    assert read.manifest() == [{"command": "test"}]


def test_a_sweep_is_gone_on_with_and_nothing_runs_twice(tmp_path):
    whole = swept(tmp_path / "whole")
    assert len(whole.ran) == len(cells())
    path = tmp_path / "parts"
    with pytest.raises(RuntimeError, match="out of memory"):
        swept(path, Scripted(crashes="grid"))
    second = swept(path)
    assert [name for name in second.ran if "evoprune" in name and name.startswith("one")] == []
    assert contents(path) == contents(tmp_path / "whole")
    assert swept(path).ran == []
    assert len(Folder(path).manifest()) == 3


def test_refused_cells_are_done_and_say_why(tmp_path):
    runner = swept(tmp_path, Scripted(refuses="downsample"))
    assert len(runner.ran) == len(cells())
    reasons = [cell["error"] for _, cell in Folder(tmp_path).cells("one") if cell["error"]]
    assert reasons == ["downsample cannot run here"]
    assert swept(tmp_path, Scripted(refuses="downsample")).ran == []


def test_keep_going_runs_the_rest_and_leaves_crashed_cells_open(tmp_path):
    told = []

    class Listener(Watcher):
        def end(self, task, arm, error):
            told.append((arm.method, error))

    runner = Scripted(crashes="grid")
    with Folder(tmp_path, CONFIGURATION) as folder:
        crashed = sweep(runner, cells(), folder, Listener(), keep_going=True)
        assert len(crashed) == 2 and "out of memory" in crashed[0] and "grid" in crashed[0]
        assert len(runner.ran) == len(cells()) == len(told)
        assert {method for method, error in told if error} == {"grid"}
    assert {name.split()[1] for name in swept(tmp_path).ran} == {"grid_0.25"}


def test_other_configurations_and_questions_are_not_mixed_in(tmp_path):
    swept(tmp_path / "out")
    with pytest.raises(FolderError, match=r"another configuration \(limit differ; limit was None and is 5"):
        Folder(tmp_path / "out", {**CONFIGURATION, "limit": 5})
    with pytest.raises(FolderError, match="other questions of one"):
        swept(tmp_path / "out", Scripted(questions=4))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FolderError, match="holds no results of an evaluation"):
        Folder(tmp_path / "mine", CONFIGURATION)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    with pytest.raises(FolderError, match="holds no results of `evoprune eval`"):
        Folder(tmp_path / "nothing")
    (tmp_path / "mine" / "configuration.json").write_text('{"format": "else/1"}')
    with pytest.raises(FolderError, match="another format"):
        Folder(tmp_path / "mine")


def test_two_writers_do_not_meet(tmp_path):
    with Folder(tmp_path, CONFIGURATION), pytest.raises(FolderError, match="being written by another process"):
        Folder(tmp_path, CONFIGURATION)
    Folder(tmp_path, CONFIGURATION).close()


def test_processes_that_help_write_nothing(tmp_path):
    runner = swept(tmp_path / "none", Scripted(main=False))
    assert len(runner.ran) == len(cells()) and not (tmp_path / "none").exists()


def test_a_full_disk_leaves_finished_cells_whole(tmp_path, monkeypatch):
    swept(tmp_path / "whole")
    written, replace = [], os.replace

    def limited(source, target):
        if len(written) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", limited)
    with pytest.raises(FolderError, match=r"the disk is full.*finished cells are safe.*same command"):
        swept(tmp_path / "out", keep_going=True)
    monkeypatch.setattr(os, "replace", replace)
    assert not list((tmp_path / "out").rglob(".part-*"))
    before = {name for name in contents(tmp_path / "out") if name.startswith("cells")}
    assert before and len(swept(tmp_path / "out").ran) == len(cells()) - len(before)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_limit_of_the_system_is_a_full_disk_too(tmp_path):
    """Answers longer than a file may be, in a process of its own: the limit cannot be raised again."""

    def small(queue):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            swept(tmp_path / "out", Scripted(questions=500))
        except FolderError as error:
            queue.put(str(error))

    queue = FORK.Queue()
    child = FORK.Process(target=small, args=(queue,))
    child.start()
    assert "the disk is full" in queue.get(timeout=60)
    child.join()


def killed_at(path: Path, event: int) -> int:
    """Sweep in a process that kills itself at its n-th event (an answer, a sync, a rename); its exit code."""

    def run():
        seen = 0

        def count(original):
            def counted(*arguments):
                nonlocal seen
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments) if original else None

            return counted

        os.replace, os.fsync = count(os.replace), count(os.fsync)
        watcher = Watcher()
        watcher.advance = count(None)
        swept(path, watcher=watcher)

    child = FORK.Process(target=run)
    child.start()
    child.join(60)
    return child.exitcode


def test_killed_at_any_point_and_gone_on_with(tmp_path):
    """One folder, killed again and again, each time a little later than the work left would begin."""
    swept(tmp_path / "whole")
    kills = 0
    for event in (1, 2, 3, 4, 5, 6, 8, 11, 12, 13, 14, 15, 16, 17, 21, 22, 23, 9, 10, 7):
        kills += killed_at(tmp_path / "out", event) == -signal.SIGKILL
    assert kills >= 15
    assert killed_at(tmp_path / "out", 10**9) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".part-*"))
