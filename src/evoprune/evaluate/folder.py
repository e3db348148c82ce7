"""A folder of results that survives being killed: every file appears whole, and a finished cell is never run again.

configuration.json         what all cells share; another configuration is refused, not mixed in
manifest.json              one entry for each run that wrote here: versions, device, commit, command
questions/TASK.jsonl       the questions, once
answers/TASK/ARM.jsonl     a line a question
cells/TASK/ARM.json        the facts of a cell, written last: with it the cell is done
summary.json               statistics of all that is done, the same whenever and wherever it is computed
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .arms import Arm
from .records import Answer, Outcome, Question

FORMAT = "evoprune.evaluation/1"
LOCK, PART = ".lock", ".part-"  # what a killed run leaves, too


class FolderError(ValueError):
    """A results folder that cannot be used, or written to."""


class Folder:
    """One folder of results.

    Parameters
    ----------
    path
        Made where it is not there.
    configuration
        JSON values that decide what the cells hold; None opens a folder to read it.
    writes
        False in processes that only help to compute: what they are asked to write is left to the one that writes.

    Raises
    ------
    FolderError
        It holds something else, or results of another configuration, or another process writes to it.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any] | None = None, *, writes: bool = True):
        self.path = Path(path)
        self.writes = writes
        self._lock: Any = None
        if configuration is None:
            self.configuration = self._configuration()
            return
        if not writes:
            self.configuration = dict(configuration)
            return
        wanted = json.loads(json.dumps({"format": FORMAT, **configuration}))
        self.configuration = wanted
        if (self.path / "configuration.json").exists():
            self._compare(self._configuration(), wanted)
        elif self.path.exists() and (not self.path.is_dir() or any(map(_foreign, self.path.iterdir()))):
            raise FolderError(f"{self.path} exists and holds no results of an evaluation: choose another folder")
        self._acquire()
        for rest in self.path.rglob(f"{PART}*"):
            rest.unlink()
        if not (self.path / "configuration.json").exists():
            self._write("configuration.json", _pretty(wanted))

    def _configuration(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / "configuration.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{self.path} holds no results of `evoprune eval`: give a folder that it wrote"
            ) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise FolderError(f"{self.path} holds results of another format than {FORMAT}: choose another folder")
        return found

    def _compare(self, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        names = [name for name in {**before, **wanted} if before.get(name) != wanted.get(name)]
        if names:
            name = names[0]
            raise FolderError(
                f"{self.path} holds results of another configuration ({', '.join(names)} differ; {name} was "
                f"{before.get(name)!r} and is {wanted.get(name)!r}): choose another folder, or run with the same"
            )

    def _acquire(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("w")
        except OSError as error:
            raise FolderError(
                f"{self.path} cannot be written ({error.strerror or error}): choose another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process dies
        except OSError as error:
            raise FolderError(
                f"{self.path} is being written by another process: wait for it, or choose another folder"
            ) from error

    def close(self) -> None:
        """Let another process write here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is there.

    @property
    def tasks(self) -> list[str]:
        """Tasks with questions, in alphabetical order."""
        return sorted(path.stem for path in (self.path / "questions").glob("*.jsonl"))

    def done(self, task: str, arm: Arm) -> bool:
        """Whether the cell was run to its end, or refused."""
        return self._cell(task, arm).exists()

    def cells(self, task: str) -> Iterator[tuple[Arm, dict[str, Any]]]:
        """Yield the arm and the facts of every cell of a task that is done, in a fixed order."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (self.path / "cells" / task).glob("*.json")]
        pairs = [(Arm.from_dict(cell["arm"]), cell) for cell in found]
        yield from sorted(pairs, key=lambda pair: (pair[0].keep is not None, pair[0].slug))

    def questions(self, task: str) -> list[Question]:
        """Return the questions of a task."""
        return [Question(**line) for line in self._lines(Path("questions") / f"{task}.jsonl")]

    def answers(self, task: str, arm: Arm) -> list[Answer]:
        """Return the answers of a cell."""
        return [Answer(**line) for line in self._lines(Path("answers") / task / f"{arm.slug}.jsonl")]

    def manifest(self) -> list[dict[str, Any]]:
        """Return the manifests of the runs that wrote here."""
        path = self.path / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    # Writing.

    def ask(self, task: str, questions: Sequence[Question]) -> None:
        """Write the questions of a task; FolderError where it has others already."""
        path = self.path / "questions" / f"{task}.jsonl"
        if not self.writes:
            return
        if not path.exists():
            self._write(path.relative_to(self.path), _jsonl(q.to_dict() for q in questions))
        elif self.questions(task) != list(questions):
            raise FolderError(
                f"{self.path} holds answers to other questions of {task} ({len(self.questions(task))}, not "
                f"{len(questions)}, or with other texts): choose another folder"
            )

    def write(self, task: str, arm: Arm, outcome: Outcome) -> None:
        """Write a finished cell: its answers first, then the facts that make it done."""
        self._write(f"answers/{task}/{arm.slug}.jsonl", _jsonl(answer.to_dict() for answer in outcome.answers))
        self._finish(
            task,
            arm,
            {
                "questions": len(outcome.answers),
                "empty": outcome.empty,
                "tokens": outcome.tokens,
                "layers": list(outcome.layers),
                "metrics": dict(outcome.metrics),
                "seconds": round(outcome.seconds, 3),
                "error": None,
            },
        )

    def refuse(self, task: str, arm: Arm, reason: str) -> None:
        """Write that the model cannot run the arm, and why."""
        self._finish(task, arm, {"error": reason})

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Note the manifest of the run that writes from now on."""
        self._write("manifest.json", _pretty([*self.manifest(), dict(manifest)]))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file beside the cells, such as summary.json."""
        self._write(name, _pretty(value))

    def _finish(self, task: str, arm: Arm, facts: Mapping[str, Any]) -> None:
        run = max(0, len(self.manifest()) - 1)
        self._write(self._cell(task, arm).relative_to(self.path), _pretty({"arm": arm.to_dict(), "run": run, **facts}))

    def _cell(self, task: str, arm: Arm) -> Path:
        return self.path / "cells" / task / f"{arm.slug}.json"

    def _lines(self, name: Path) -> Iterator[dict[str, Any]]:
        with (self.path / name).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def _write(self, name: str | Path, text: str) -> None:
        """Let a file appear whole, or not at all."""
        if not self.writes:
            return
        path = self.path / name
        part = path.with_name(f"{PART}{path.name}")

        def put() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)

        try:
            self._tried(put)
        finally:
            part.unlink(missing_ok=True)

    def _tried(self, do: Any) -> Any:
        try:
            return do()
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            why = "the disk is full" if full else (error.strerror or str(error))
            raise FolderError(
                f"{self.path} cannot be written ({why}): finished cells are safe; "
                f"{'free some space' if full else 'choose a folder that can be written'} and run the same command again"
            ) from error


def _foreign(path: Path) -> bool:
    return path.name != LOCK and not path.name.startswith(PART)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
