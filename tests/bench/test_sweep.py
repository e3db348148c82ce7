"""Sweeps: which cells there are, and files that are whole and can be gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evoprune.bench.inputs import Shape
from evoprune.bench.sweep import Sweep, shapes

HEAD = {"model": "tiny", "dtype": "float32", "attention": "sdpa"}


def sweep(path: Path | None, repeats: int = 3) -> Sweep:
    return Sweep(path, {"repeats": repeats, "seed": 0}, HEAD)


def cell(shape: Shape) -> dict[str, Any]:
    return {"images": shape.images, "frames": shape.frames, "batch": shape.batch, "arms": []}


def test_cells_are_every_combination() -> None:
    assert shapes([1, 2], None, [1, 16], Shape(1)) == [Shape(1), Shape(1, None, 16), Shape(2), Shape(2, None, 16)]
    assert shapes(None, [2, 8], [1], Shape(1)) == [Shape(None, 2), Shape(None, 8)]
    assert shapes(None, None, [4], Shape(None, 64)) == [Shape(None, 64, 4)]
    assert [str(one) for one in (Shape(1), Shape(None, 8, 2))] == ["1 image", "8 frames, batch 2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0], None, [1]), "--images 0 shows the model nothing"),
        ((None, [-2], [1]), "--frames -2 shows the model nothing"),
        ((None, None, [0]), "--batch 0 shows the model nothing"),
        ((None, [2, 2], [1]), "--frames 2,2 has a number twice"),
        (([1], [2], [1]), "either pictures or a video"),
    ],
)
def test_impossible_shapes_are_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        shapes(*arguments, Shape(1))


def test_a_shape_is_of_one_kind() -> None:
    with pytest.raises(ValueError, match="either pictures or a video"):
        Shape(1, 2)


def test_a_run_goes_on_behind_the_last_whole_cell(tmp_path: Path) -> None:
    path, todo, ran = tmp_path / "out.json", [Shape(1), Shape(2), Shape(3)], []

    def failing(shape: Shape) -> dict[str, Any]:
        if shape == Shape(2):
            raise KeyboardInterrupt
        return cell(shape)

    with pytest.raises(KeyboardInterrupt):
        sweep(path).run(todo, failing)
    first = json.loads(path.read_text())
    assert [one["images"] for one in first["cells"]] == [1]

    again = sweep(path)
    assert again.resume() == 1 and again.done(Shape(1)) and not again.done(Shape(1, None, 2))
    result = again.run(todo, lambda shape: ran.append(shape) or cell(shape))  # type: ignore[func-returns-value]
    assert ran == todo[1:]
    assert result == json.loads(path.read_text())
    assert [one["images"] for one in result["cells"]] == [1, 2, 3]
    assert result["manifest"]["resumed_from"] == first["manifest"]
    assert [one.name for one in tmp_path.iterdir()] == ["out.json"]


def test_other_settings_need_another_file_or_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    sweep(path).run([Shape(1)], cell)
    with pytest.raises(ValueError, match=r"out.json holds a result of other settings \(repeats\): choose another file"):
        sweep(path, repeats=4).resume()
    anew = sweep(path, repeats=4)
    assert anew.resume(overwrite=True) == 0
    anew.run([Shape(2)], cell)
    assert [one["images"] for one in json.loads(path.read_text())["cells"]] == [2]


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no JSON"), ('{"format": "x"}', "is no result"), ("[1]", "is no result")]
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        sweep(path).resume()
    assert path.read_text() == text


def test_an_empty_file_and_no_file_are_begun(tmp_path: Path) -> None:
    (tmp_path / "out.json").touch()
    assert sweep(tmp_path / "out.json").resume() == 0
    assert sweep(None).resume() == 0
    assert sweep(None).run([Shape(1)], cell)["cells"] == [cell(Shape(1))]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    one = sweep(path)
    one.run([Shape(1)], cell)
    before = path.read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        one.run([Shape(2)], lambda shape: cell(shape) | {"repeats": float("nan")})
    assert path.read_text() == before and [one.name for one in tmp_path.iterdir()] == ["out.json"]
