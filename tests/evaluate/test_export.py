"""Exported predictions: another reader finds the folder's accuracy in them."""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evoprune.evaluate import export as exporting
from evoprune.evaluate.arms import FULL, Arm
from evoprune.evaluate.export import export
from evoprune.evaluate.folder import Folder, FolderError
from evoprune.evaluate.records import Answer, Outcome, Question
from tests.evaluate import results_case

SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def sheet(path: Path) -> list[dict[str, str]]:
    """The lines of a workbook, read from its XML alone."""
    with zipfile.ZipFile(path) as book:
        shared = []
        if "xl/sharedStrings.xml" in book.namelist():
            root = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
            shared = ["".join(node.itertext()) for node in root]
        rows = []
        for row in ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml")).iter(f"{SPACE}row"):
            cells = {}
            for cell in row.iter(f"{SPACE}c"):
                text = "".join(cell.itertext())
                place = re.match(r"[A-Z]+", cell.get("r", ""))
                cells[place[0] if place else ""] = shared[int(text)] if cell.get("t") == "s" else text
            rows.append(cells)
    head = rows[0]
    return [{head[place]: row.get(place, "") for place in head} for row in rows[1:]]


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("ending", [".xlsx", ".tsv"])
def test_another_reader_finds_the_same_accuracy(tmp_path: Path, ending: str) -> None:
    if ending == ".xlsx":
        pytest.importorskip("openpyxl", reason="spreadsheets need the extra 'eval'")
    folder = results_case.small(tmp_path / "results")
    files = export(folder, tmp_path / "out", ending=ending)
    read = sheet if ending == ".xlsx" else lines
    arms = [(task, arm) for task in folder.tasks for arm, facts in folder.cells(task) if facts["error"] is None]
    assert len(files) == len(arms) == len({path.name for path in files})
    for path, (task, arm) in zip(files, arms, strict=True):
        assert path.name == f"tiny-{arm.slug}_{task}{ending}"
        rows = read(path)
        right = [row["prediction"].strip().lower() == row["answer"].lower() for row in rows]
        scores = [answer.score for answer in folder.answers(task, arm)]
        assert sum(right) / len(right) == sum(scores) / len(scores)
        asked = folder.questions(task)
        assert [(row["index"], row["question"], row["category"]) for row in rows] == [
            (str(number), one.prompt, one.kind) for number, one in enumerate(asked)
        ]
    assert not any("fastv_4_" in path.name for path in files if path.name.endswith(f"shapes{ending}"))  # refused


def odd(path: Path) -> Folder:
    texts = ["=1+1", "tab\there", "two\nlines", 'a "quote"', "", "bell\x07", "ü 数"]
    with Folder(path, {"model": "some/where/model name/"}) as folder:
        folder.begin({})
        folder.ask("task", [Question(str(i), f"q{i}", "a") for i in range(len(texts))])
        folder.write("task", Arm(FULL), Outcome(tuple(Answer(str(i), t, 0.0) for i, t in enumerate(texts))))
    return Folder(path)


def test_odd_texts_survive(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="spreadsheets need the extra 'eval'")
    folder = odd(tmp_path / "results")
    said = [answer.text for answer in folder.answers("task", Arm(FULL))]
    (text,) = export(folder.path, tmp_path / "text", ending=".tsv")
    (book,) = export(folder, tmp_path / "book")
    assert text.name == "model-name-full_task.tsv" and book.suffix == ".xlsx"
    assert [row["prediction"] for row in lines(text)] == said
    assert [row["prediction"] for row in sheet(book)] == [one.replace("\x07", "") for one in said]
    assert "category" not in lines(text)[0]  # the task has no kinds


def test_without_openpyxl_it_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    folder = odd(tmp_path / "results")
    (path,) = export(folder, tmp_path / "out")
    assert path.suffix == ".tsv"
    with pytest.raises(ValueError, match=r"pip install 'evoprune\[eval\]', or write \.tsv"):
        export(folder, tmp_path / "out", ending=".xlsx")
    with pytest.raises(ValueError, match=r"not as '\.json'"):
        export(folder, tmp_path / "out", ending=".json")


def test_what_is_no_result_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds no results"):
        export(tmp_path, tmp_path / "out")
    folder = odd(tmp_path / "results")
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="choose another folder"):
        export(folder, tmp_path / "file")
    answers = folder.path / "answers" / "task" / "full.jsonl"
    answers.write_text(answers.read_text().split("\n", 1)[1])
    with pytest.raises(FolderError, match="no answer of full to question 0 of task"):
        export(folder, tmp_path / "out", ending=".tsv")


def test_pandas_reads_every_answer_as_it_was_when_told_as_the_docstring_says(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="tables are read by pandas, which the extra 'eval' brings")
    said = ["None", "NA", "007", "", "1e3"]
    with Folder(tmp_path / "results", {"model": "tiny", "harness": "batched"}) as folder:
        folder.ask("words", [Question(str(i), "?", text, "") for i, text in enumerate(said)])
        answers = tuple(Answer(str(i), text, 1.0) for i, text in enumerate(said))
        folder.write("words", Arm(FULL), Outcome(answers, 1.0))
        (path,) = export(folder, tmp_path / "out", ending=".tsv")
    assert r'sep="\t", dtype=str, keep_default_na=False' in str(export.__doc__)
    found = pandas.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    assert found["prediction"].tolist() == found["answer"].tolist() == said
    assert pandas.read_csv(path, sep="\t")["prediction"].tolist() != said  # what the docstring warns of
