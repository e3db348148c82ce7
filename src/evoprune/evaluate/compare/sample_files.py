"""Sample files of lmms-eval (``--log_samples``): lines, their scores, answers and groups."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = re.compile(r"samples_(?P<task>.+)$")  # <stamp>_samples_<task>.jsonl
KEPT = frozenset({"doc_id", "doc_hash", "target", "filtered_resps", "resps", "input", "token_counts"})  # no metrics
Key = tuple[str, str, str]


def read(path: Path) -> tuple[str, dict[Key, dict[str, Any]]]:
    """Return the task of a file, by its name, and its lines by document number, prompt and target.

    Raises
    ------
    ValueError
        It cannot be read, holds something else, nothing, or a question twice.
    """
    wanted = "give a file <stamp>_samples_<task>.jsonl of `lmms-eval --log_samples`"
    name = NAME.search(path.name.removesuffix(".jsonl"))
    if name is None or path.suffix != ".jsonl":
        raise ValueError(f"{path} does not say its task: {wanted}")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {wanted}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON in lines ({error}): {wanted}") from error
    if not lines or not all(isinstance(line, dict) and {"doc_id", "target", "input"} <= line.keys() for line in lines):
        raise ValueError(f"{path} holds no samples: {wanted}")
    found = {key(line): line for line in lines}
    if len(found) < len(lines):
        raise ValueError(f"{path} holds {len(lines) - len(found)} questions twice: give the file of one run")
    return name["task"], found


def key(line: Mapping[str, Any]) -> Key:
    """Return what names a question: lmms-eval's ``doc_hash`` is the same for all."""
    return tuple(json.dumps(line[name], sort_keys=True) for name in ("doc_id", "input", "target"))  # type: ignore[return-value]


def score(task: str, line: Mapping[str, Any]) -> float:
    """Return how right an answer is by the task's own measure, 0 to 1; ValueError where the line has none."""
    from ..catalogue.scores import per_sample

    said = line.get("filtered_resps")
    return per_sample(task, {**line, "filtered_resps": [said] if isinstance(said, str) else said})  # as before the file


def answer(line: Mapping[str, Any]) -> str:
    """Return what the model said, after the task's filters."""
    found = line.get("filtered_resps", line.get("resps", ""))
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def groups(task: str, lines: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the picture or video of each line as `evoprune eval` groups questions, None where a line does not tell.

    lmms-eval leaves the document out of its files; what is left of it are the fields that a task puts in its metric.
    """
    from ..catalogue.questions import group

    found = []
    for line in lines:
        fields: dict[str, Any] = {}
        for name, value in line.items():
            if name not in KEPT and isinstance(value, dict):
                fields |= value
        if task.startswith("refcoco") and "file_name" not in fields:
            return None  # else each box would be a group of its own
        found.append(group(task, fields))
    return found if all(found) else None
