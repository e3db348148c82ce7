"""Questions of a batch and its file of answers: what offline_batch.py and ray_batch.py share, without vLLM."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
WAY_OUT = 'write one JSON object a line, such as {"id": "7", "image": "cat.jpg", "prompt": "What is this?"}'


@dataclass(frozen=True)
class Row:
    """One question about one or more pictures."""

    id: str
    images: tuple[str, ...]  # as the data names them, relative to `folder`
    prompt: str
    folder: str  # absolute, as other machines and threads may be elsewhere

    def messages(self, pictures: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Return the question as a chat of one turn, with the pictures themselves where they are given."""
        if pictures is None:
            content: list[dict[str, Any]] = [{"type": "image"} for _ in self.images]
        else:
            content = [{"type": "image_pil", "image_pil": one} for one in pictures]
        return [{"role": "user", "content": [*content, {"type": "text", "text": self.prompt}]}]

    def asked(self) -> dict[str, Any]:
        """Return the first fields of the row's answer."""
        return {"id": self.id, "image": list(self.images), "prompt": self.prompt}


def read_rows(data: Path, prompt: str | None) -> list[Row]:
    """Return the rows of a folder of pictures, all asked `prompt`, or of a file of JSON lines.

    A picture's id is its name; a line's is its "id", or else its number. Pictures are not opened here.

    Raises
    ------
    ValueError
        Nothing to ask, a line that is no question, or two rows with one id: with file and line.
    """
    if data.is_dir():
        if prompt is None:
            raise ValueError(f"{data} is a folder of pictures and nothing says what to ask about them: give --prompt")
        files = sorted(file for file in data.iterdir() if file.suffix.lower() in PICTURES)
        rows = [Row(file.name, (file.name,), prompt, str(data.resolve())) for file in files]
    else:
        if prompt is not None:
            raise ValueError(
                f"--prompt {prompt!r} goes with a folder of pictures, but {data} has prompts: leave it out"
            )
        lines = data.read_text(encoding="utf-8-sig").split("\n")  # splitlines knows more ends than JSON does
        rows = [_row(f"{data}, line {n}", n, line, data.parent) for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{data} holds no question: {WAY_OUT}, or give a folder of pictures")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"{data} has two rows with the id {row.id!r}: give each an id of its own")
        seen.add(row.id)
    return rows


def _row(where: str, number: int, line: str, folder: Path) -> Row:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}): {WAY_OUT}") from error
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise ValueError(f"{where} has no prompt that is text: {WAY_OUT}")
    images = found.get("image")
    images = images if isinstance(images, list) else [images]
    if not images or not all(isinstance(one, str) for one in images):
        raise ValueError(f"{where} has no image that is a path, or a list of paths: {WAY_OUT}")
    return Row(str(found.get("id", number)), tuple(images), found["prompt"], str(folder.resolve()))


def pictures(row: Row) -> list[Any]:
    """Open the pictures of `row`; ValueError with a sentence where one is missing or broken."""
    from evoprune.commands.errors import UserError
    from evoprune.commands.pictures import open_picture

    try:
        return [open_picture(Path(row.folder, path)) for path in row.images]
    except UserError as error:
        raise ValueError(str(error)) from error


class Answers:
    """A file with a line of JSON for each row that is finished, one run at a time.

    A run may be killed at any point: what it was writing then is cut off by the next one, and asked again.

    Parameters
    ----------
    path
        The file, made where it does not exist; `path`.run.json beside it holds the settings.
    settings
        What the answers depend on: a run with others is refused, as it would mix two kinds of answers.
    retry
        Forget the rows that failed, so that they are asked again.

    Raises
    ------
    ValueError
        Another run writes to the file, it was written with other settings, or holds lines that are no answers.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], retry: bool = False):
        self.path = path
        self._open()
        try:
            self._settle(dict(settings))
            self._repair()
            self.finished = {row["id"]: row for row in self._read()}
            if retry and self.failures():
                self._forget_failures()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._file = open(self.path, "a+b")  # noqa: SIM115  # closed by close()
        try:
            # A lock of this process: one that children inherit would outlive a killed run.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ValueError(
                f"{self.path} is being written by another run: wait for it, or give another --output"
            ) from error

    def close(self) -> None:
        self._file.close()

    def left(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows without an answer; ValueError where one of these ids was asked something else."""
        for row in rows:
            done = self.finished.get(row.id)
            if done is not None and any(done[name] != value for name, value in row.asked().items()):
                raise ValueError(
                    f"{self.path} answers row {row.id!r} for another picture or prompt: give another --output"
                )
        return [row for row in rows if row.id not in self.finished]

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add finished rows, each once; they are on the disk when this returns."""
        rows = [row for row in rows if row["id"] not in self.finished]  # Ray may run a task again
        self._file.write(written(rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.finished.update((row["id"], row) for row in rows)

    def failures(self) -> int:
        """Return how many finished rows have an error in place of an answer."""
        return sum("error" in row for row in self.finished.values())

    def _settle(self, settings: dict[str, Any]) -> None:
        file = self.path.with_name(self.path.name + ".run.json")
        settings = json.loads(json.dumps(settings))
        if self._file.seek(0, os.SEEK_END) == 0:
            replace(file, json.dumps(settings, indent=1).encode() + b"\n")
            return
        if not file.exists():
            raise ValueError(f"{self.path} was not begun by this program, as there is no {file}: give another --output")
        before = json.loads(file.read_text())
        for name in {**before, **settings}:
            if before.get(name) != settings.get(name):
                raise ValueError(
                    f"{self.path} was begun with {name}={before.get(name)!r}, not {settings.get(name)!r}: "
                    "go on with the same settings, or give another --output"
                )

    def _repair(self) -> None:
        """Cut off a last line that was not written to its end."""
        size = end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)

    def _read(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or not {"id", "image", "prompt"} <= row.keys():
                raise ValueError(f"{self.path}, line {number} is no answer: take it out, or give another --output")
            yield row

    def _forget_failures(self) -> None:
        self.finished = {name: row for name, row in self.finished.items() if "error" not in row}
        replace(self.path, written(self.finished.values()))
        self.close()
        self._open()


def written(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a line of JSON for each row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def replace(file: Path, content: bytes) -> None:
    """Write `file` as a whole or not at all."""
    part = file.with_name(file.name + ".part")
    with open(part, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
