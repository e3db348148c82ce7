"""The batch examples without an engine: their file of answers loses and repeats nothing, wherever a run was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def rows_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import batch_rows

    return batch_rows


@pytest.fixture
def rows(rows_module: Any) -> list[Any]:
    return [rows_module.Row(f"Straße {i}", (f"{i}.png",), "Was ist das?\u2028", "data") for i in range(4)]


def line(row: Any) -> dict[str, Any]:
    return row.asked() | {"answer": f"eine {row.id}"}


def test_a_run_goes_on_wherever_its_write_was_cut(rows_module: Any, rows: list[Any], tmp_path: Path) -> None:
    whole = rows_module.written(map(line, rows))
    file = tmp_path / "out.jsonl"
    for cut in range(len(whole) + 1):
        rows_module.Answers(file, {}).close()
        file.write_bytes(whole[:cut])
        answers = rows_module.Answers(file, {})
        left = answers.left(rows)
        assert len(left) == len(rows) - whole[:cut].count(b"\n")
        answers.append([line(row) for row in left])
        answers.close()
        assert file.read_bytes() == whole
        file.unlink()


def test_a_last_line_without_end_is_found_behind_long_ones(rows_module: Any, rows: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    answers = rows_module.Answers(file, {})
    answers.append([line(rows[0])])
    answers.close()
    before = file.read_bytes()
    file.write_bytes(before + b"x" * 200_000)
    rows_module.Answers(file, {}).close()
    assert file.read_bytes() == before


def test_other_settings_are_refused(rows_module: Any, rows: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    answers = rows_module.Answers(file, {"keep": 64})
    answers.append([line(rows[0])])
    answers.close()
    with pytest.raises(ValueError, match="begun with keep=64, not 32"):
        rows_module.Answers(file, {"keep": 32})
    rows_module.Answers(file, {"keep": 64}).close()


def test_foreign_files_are_left_alone(rows_module: Any, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear reader,")
    with pytest.raises(ValueError, match="not begun by this program"):
        rows_module.Answers(file, {})
    assert file.read_text() == "Dear reader,"


def test_two_runs_at_once_are_refused(rows_module: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    answers = rows_module.Answers(file, {})
    other = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\nimport batch_rows, pathlib\n"
    other += f"batch_rows.Answers(pathlib.Path({str(file)!r}), {{}})"
    told = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert told.returncode == 1 and "is being written by another run" in told.stderr
    answers.close()
    assert subprocess.run([sys.executable, "-c", other]).returncode == 0


def test_an_id_that_now_asks_something_else_is_refused(rows_module: Any, rows: list[Any], tmp_path: Path) -> None:
    answers = rows_module.Answers(tmp_path / "out.jsonl", {})
    answers.append([line(rows[0]) | {"prompt": "What was asked before?"}])
    with pytest.raises(ValueError, match="for another picture or prompt"):
        answers.left(rows)
    answers.close()


def test_a_row_that_comes_twice_is_written_once(rows_module: Any, rows: list[Any], tmp_path: Path) -> None:
    answers = rows_module.Answers(tmp_path / "out.jsonl", {})
    answers.append([line(rows[0])])
    answers.append([line(rows[0]), line(rows[1])])
    answers.close()
    assert (tmp_path / "out.jsonl").read_bytes() == rows_module.written([line(rows[0]), line(rows[1])])


def test_retry_forgets_failures_alone(rows_module: Any, rows: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    answers = rows_module.Answers(file, {})
    answers.append([line(rows[0]), rows[1].asked() | {"error": "broken"}, line(rows[2])])
    answers.close()
    again = rows_module.Answers(file, {}, retry=True)
    assert again.left(rows) == [rows[1], rows[3]]
    again.append([line(rows[1])])
    again.close()
    assert [json.loads(text)["id"] for text in file.read_text().split("\n")[:-1]] == [rows[i].id for i in (0, 2, 1)]


def test_rows_of_a_folder_and_of_lines(rows_module: Any, tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = rows_module.read_rows(tmp_path, "What?")
    assert [(row.id, row.images, row.prompt) for row in found] == [("a.JPG", ("a.JPG",), "What?"),
                                                                   ("b.png", ("b.png",), "What?")]  # fmt: skip
    assert rows_module.pictures(found[0])[0].size == (8, 8)
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"image": "a.JPG", "prompt": "one"}\n\n{"id": 9, "image": ["a.JPG", "b.png"], "prompt": "two"}\n')
    first, second = rows_module.read_rows(lines, None)
    assert (first.id, second.id, len(rows_module.pictures(second))) == ("1", "9", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ("{", "line 1 is no JSON"),
        ('{"image": "a.png"}', "line 1 has no prompt"),
        ('{"prompt": "p"}', "line 1 has no image"),
        ('{"image": [], "prompt": "p"}', "line 1 has no image"),
        (
            '{"id": 1, "image": "a", "prompt": "p"}\n{"id": "1", "image": "b", "prompt": "p"}',
            "two rows with the id '1'",
        ),
    ],
)
def test_what_is_no_question_is_refused(rows_module: Any, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        rows_module.read_rows(file, None)


def test_a_broken_picture_is_told_in_a_sentence(rows_module: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png is no picture that can be read"):
        rows_module.pictures(rows_module.Row("a", ("a.png",), "What?", str(tmp_path)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny", "rows.jsonl", "-o", "x.jsonl", "--keep", "1"], "keep"),
        (["tiny", "rows.jsonl", "-o", "x.jsonl", "--method", "fastv"], "fastv acts at the decoder stage"),
        (["tiny", "rows.jsonl", "-o", "x.jsonl", "--method", "evoprun"], "evoprun"),
        (["tiny", "nowhere.jsonl", "-o", "x.jsonl"], "nowhere.jsonl"),
        (["tiny", "rows.jsonl", "-o", "x.jsonl", "--engine", "[]"], "is no JSON object"),
        (["tiny", "rows.jsonl", "-o", "x.jsonl", "--chunk", "0"], "--chunk 0 is no number of rows"),
        (["tiny", ".", "-o", "x.jsonl"], "give --prompt"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    rows_module: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    import offline_batch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["offline_batch.py", *words])
    Path("rows.jsonl").write_text('{"image": "a.png", "prompt": "What?"}\n')
    with pytest.raises(SystemExit) as left:
        offline_batch.main()
    assert left.value.code == 2 and message in capsys.readouterr().err
    assert not Path("x.jsonl").exists()
