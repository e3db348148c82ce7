"""`evoprune fit` from outside: recipes, tables, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from evoprune.commands import loading
from evoprune.pruners import FitPrune
from evoprune.recipe_files import read
from tests.test_cli import QUESTION, call, model, refused

__all__ = ["model"]  # a fixture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.radial_gradient("L").rotate(40 * number).convert("RGB").save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def fit(model: object, *arguments: object, reduce: object = 0.5, samples: int = 2) -> Result:
    return call("fit", model, "--reduce", reduce, "--samples", samples, "--device", "cpu", *arguments)


def test_help() -> None:
    result = call("fit", "--help")
    assert result.exit_code == 0 and "evoprune fit tiny --reduce 0.5" in result.stdout.split("Examples:")[1]


def test_a_folder_of_pictures(model: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = fit(model, "--data", pictures, "--prompt", QUESTION, "-o", file, reduce="0.3,0.6")
    assert result.exit_code == 0, result.output
    assert "asked" in result.stdout and "0.3" in result.stdout and str(file) in result.stdout
    recipes = read(file)
    assert [one.reduce for one in recipes] == [0.3, 0.6] and all(one.samples == 2 for one in recipes)
    assert all(one.reduce <= one.removed < one.reduce + 0.01 for one in recipes)  # type: ignore[operator]
    facts = recipes[0].manifest
    assert facts["seed"] == 0 and facts["fitted_on"] == "cpu" and facts["packages"]["torch"] and facts["data"]
    assert [one.name for one in tmp_path.iterdir()] == ["out.json"]


def test_json_lines(model: Path, pictures: Path, tmp_path: Path) -> None:
    lines = tmp_path / "asked.jsonl"
    rows = [{"image": "0.png", "prompt": QUESTION}, {"image": ["1.png", "2.png"], "prompt": QUESTION}]
    lines.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    refused(fit(model, "--data", lines), "line 1 names", "does not exist")
    for picture in pictures.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    result = fit(model, "--data", lines, "-o", tmp_path / "out.json", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["recipes"][0]["left"] == list(read(tmp_path / "out.json")[0].left)
    assert found["recipes"][0]["tokens"] == 196 and found["seconds"] > 0 and found["manifest"]["seed"] == 0


def test_official_differs_and_says_so(model: Path, pictures: Path, tmp_path: Path) -> None:
    files = tmp_path / "ours.json", tmp_path / "official.json"
    for file, more in zip(files, ([], ["--official"]), strict=True):
        assert fit(model, "--data", pictures, "-o", file, *more).exit_code == 0
    ours, official = (read(file)[0] for file in files)
    assert official.official and not ours.official and official.left != ours.left


def test_the_draw_of_prompts_follows_the_seed(model: Path, pictures: Path) -> None:
    from evoprune.commands.fit_data import find_prompts

    drawn = {find_prompts(str(model), pictures, None, 1, seed)[0].images for seed in range(20)}
    assert len(drawn) == 3
    assert find_prompts(str(model), pictures, None, 2, 5) == find_prompts(str(model), pictures, None, 2, 5)
    assert len(find_prompts(str(model), pictures, None, 9, 0)) == 3
    assert {one.prompt for one in find_prompts(str(model), pictures, None, 9, 0)} == {"Describe the image."}


def test_the_embedded_model_needs_no_data(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_TINY_MODEL", str(model))
    assert fit("tiny", "-o", tmp_path / "out.json").exit_code == 0
    assert read(tmp_path / "out.json")[0].model.name == "tiny"


def test_a_recipe_answers(model: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert fit(model, "--data", pictures, "-o", file).exit_code == 0
    asked = ("ask", model, "--image", pictures / "0.png", "--prompt", QUESTION, "--max-new-tokens", 2)
    result = call(*asked, "--method", "fitprune", "--keep", 0.6, "--set", f"recipe={file}", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["method"]["recipe"]["left"] == list(read(file)[0].left) and "defaults" not in found
    refused(call(*asked, "--method", "fitprune", "--keep", 0.1, "--set", f"recipe={file}"), "keep=0.1", "evoprune fit")
    refused(call(*asked, "--method", "fitprune", "--keep", 0.5), "has no recipe", "evoprune fit")
    file.write_bytes(file.read_bytes()[:100])
    refused(call(*asked, "--method", "fitprune", "--keep", 0.5, "--set", f"recipe={file}"), str(file), "cut off")


@pytest.mark.parametrize("keep", [49, 0.5])
def test_the_embedded_model_brings_its_recipes(pictures: Path, keep: object) -> None:
    asked = ("ask", "tiny", "--image", pictures / "0.png", "--prompt", QUESTION, "--max-new-tokens", 2)
    result = call(*asked, "--method", "fitprune", "--keep", keep, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    chosen = FitPrune(keep, recipe=loading.defaults("tiny")["recipe"])
    assert found["method"] == chosen.to_dict() and found["defaults"]["recipe"].endswith("recipes.json")
    text = call(*asked, "--method", "fitprune", "--keep", keep, "--device", "cpu").stdout
    assert "recipes.json, which comes with the embedded model" in text


def test_estimate_needs_no_weights(model: Path) -> None:
    found = json.loads(call("fit", "llava-1.5-7b", "--reduce", 0.5, "--estimate", "--json").stdout)
    assert found["layers"] == 32 and found["tokens"] == 576 and found["flops"] > 1e15
    text = call("fit", model, "--reduce", "0.5,0.6", "--estimate")
    assert text.exit_code == 0 and "196 + 40 tokens" in text.stdout and "20 tolerances" in text.stdout


@pytest.mark.parametrize("reduce", ["", "0", "1", "1.5", "-0.1", "half", "nan", "0.5,2"])
def test_wrong_shares(model: Path, pictures: Path, reduce: str) -> None:
    refused(fit(model, "--data", pictures, f"--reduce={reduce}"), "--reduce")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("cat.jpg", ["line 1 is no JSON"]),
        ('{"image": "0.png"}', ["line 1 has no prompt"]),
        ('{"prompt": "a"}', ["line 1 names neither image nor video"]),
        ('{"image": 3, "prompt": "a"}', ["line 1 has an image that is no path"]),
        ('{"image": "0.png", "prompt": "a", "answer": "b"}', ["'answer'", "means nothing"]),
        ("[1, 2]", ["line 1 has no prompt"]),
    ],
)
def test_wrong_lines(model: Path, tmp_path: Path, text: str, words: list[str]) -> None:
    lines = tmp_path / "asked.jsonl"
    lines.write_text(text)
    refused(fit(model, "--data", lines, "-o", tmp_path / "out.json"), str(lines), *words)
    assert not (tmp_path / "out.json").exists()


def test_wrong_data_and_outputs(model: Path, pictures: Path, tmp_path: Path) -> None:
    refused(fit(model), "give --data")
    refused(fit(model, "--data", tmp_path / "none"), "does not exist")
    refused(fit(model, "--data", tmp_path), "holds no picture")
    refused(fit("tiny", "--prompt", "a"), "--prompt 'a'")
    binary = tmp_path / "asked.jsonl"
    binary.write_bytes(b"\xff\xfe\xff")
    refused(fit(model, "--data", binary), "cannot be read as text")
    refused(fit(model, "--data", binary, "--prompt", "a"), "leave it out")
    refused(fit(model, "--data", pictures, "-o", tmp_path / "none" / "out.json"), "does not exist")
    refused(fit(model, "--data", pictures, "-o", tmp_path / "out.txt"), ".json")
    refused(fit(model, "--data", pictures, "--prompt", "a <image>", "-o", tmp_path / "out.json"), "placeholder")
    refused(fit(model, "--data", pictures, "-o", tmp_path / "out.json", reduce=0.99), "cannot be met", "ask for less")
    refused(call("fit", "qwen2-vl-2", "--reduce", 0.5, "--estimate"), "hub")
