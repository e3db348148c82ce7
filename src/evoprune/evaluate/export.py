"""Predictions as VLMEvalKit keeps them, so that it, or anything that reads a table, can score them again."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from .folder import Folder, FolderError

COLUMNS = ("index", "question", "answer", "prediction", "category")
WIDEST = 32767  # characters that a cell of a spreadsheet holds


def export(folder: Folder | Path, target: Path, *, ending: str | None = None) -> list[Path]:
    """Write a table for each finished cell, named ``MODEL_DATASET`` as VLMEvalKit names its predictions.

    MODEL is the model with the arm, DATASET the task. A line is a question: `index` its number from 0 in the task's
    order, `question`, `answer` (what is looked for), `prediction` (what the model said) and, where the task has kinds,
    `category`. Scores stay out: the other side is to find its own, and gives its own indices and choices to the
    questions, which come in the order of the task. A spreadsheet has no control characters, and no cell of more than
    32767 characters; a .tsv has everything.

    All but `index` is text. pandas reads answers such as "None" or "NA" as missing, and 007 as a number, unless told
    otherwise: ``read_csv(path, sep="\\t", dtype=str, keep_default_na=False)``, and the same two with ``read_excel``.

    Parameters
    ----------
    folder
        Results of `evoprune eval`, finished or not; refused cells are left out.
    target
        Folder for the tables; made where it is not there.
    ending
        ``".xlsx"`` or ``".tsv"``; by default the first where openpyxl is installed.

    Returns
    -------
    list of Path
        The files, a task's cells together.

    Raises
    ------
    FolderError
        The folder holds no results, or `target` cannot be written.
    ValueError
        Another ending, or .xlsx without openpyxl.
    """
    results = folder if isinstance(folder, Folder) else Folder(folder)
    ending = _ending(ending)
    named = str(results.configuration.get("model") or "").rstrip("/").rpartition("/")[2]
    model = re.sub(r"[^\w.-]+", "-", named) + "-" if named else ""
    try:
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for task in results.tasks:
            for slug, rows in _tables(results, task):
                path = target / f"{model}{slug}_{task}{ending}"
                (_workbook if ending == ".xlsx" else _text)(path, rows)
                written.append(path)
    except OSError as error:
        raise FolderError(f"{target} cannot be written ({error.strerror}): choose another folder") from error
    return written


def _ending(ending: str | None) -> str:
    there = find_spec("openpyxl") is not None
    if ending is None:
        return ".xlsx" if there else ".tsv"
    if ending not in (".xlsx", ".tsv"):
        raise ValueError(f"predictions are written as .xlsx or .tsv, not as {ending!r}: choose one of them")
    if ending == ".xlsx" and not there:
        raise ValueError(
            "a spreadsheet needs openpyxl, which the extra 'eval' brings: pip install 'evoprune[eval]', or write .tsv"
        )
    return ending


def _tables(folder: Folder, task: str) -> Iterator[tuple[str, list[tuple[str | int, ...]]]]:
    """The name and the lines of each finished cell of a task, with the headings in front."""
    questions = folder.questions(task)
    width = len(COLUMNS) if any(question.kind for question in questions) else len(COLUMNS) - 1
    for arm, facts in folder.cells(task):
        if facts["error"] is not None:
            continue
        said = {answer.id: answer.text for answer in folder.answers(task, arm)}
        rows: list[tuple[str | int, ...]] = [COLUMNS[:width]]
        for number, one in enumerate(questions):
            if one.id not in said:
                raise FolderError(
                    f"{folder.path} has no answer of {arm.slug} to question {one.id} of {task}: delete its file under "
                    "cells/ and run the same command again"
                )
            rows.append((number, one.prompt, one.target, said[one.id], one.kind)[:width])
        yield arm.slug, rows


def _text(path: Path, rows: Sequence[tuple[str | int, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


def _workbook(path: Path, rows: Sequence[tuple[str | int, ...]]) -> None:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        cells = []
        for value in row:
            text = isinstance(value, str)
            cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value)[:WIDEST] if text else value)
            if text:
                cell.data_type = "s"  # an answer such as "=1+1" is no formula
            cells.append(cell)
        sheet.append(cells)
    book.save(path)
