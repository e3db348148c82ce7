"""The command line from outside: answers, JSON, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, BertConfig
from typer.testing import CliRunner, Result

from evoprune.cli import app
from evoprune.commands.answer import generate
from evoprune.pruners import METHODS
from evoprune.recipe_files import write
from evoprune.recipes import Recipe, identify
from evoprune.tiny import build

QUESTION = "What digit is red?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model of the embedded model's kind."""
    torch.manual_seed(0)
    words = build.tokenizer([QUESTION, "USER: ASSISTANT:", "yes no 0 1 2 3 4 5 6 7 8 9"])
    folder = tmp_path_factory.mktemp("model")
    build.save(build.model(words, depth=8), build.processor(words), folder)
    return folder


@pytest.fixture
def embedded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_TINY_MODEL", str(model))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.radial_gradient("L").convert("RGB").save(file)
    return file


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ask(model: object, picture: Path, *more: object, keep: object = 49) -> Result:
    what = ("--image", picture, "--prompt", QUESTION, "--keep", keep)
    return call("ask", model, *what, "--max-new-tokens", 2, "--device", "cpu", *more)


def refused(result: Result, *words: str) -> None:
    """One sentence on stderr that holds `words`, nothing on stdout, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    for word in words:
        assert word in lines[0]


def test_help_and_version() -> None:
    assert call("--version").stdout.startswith("evoprune 0.")
    for command in ("demo", "ask", "fit", "doctor", "models", "methods"):
        result = call(command, "--help")
        assert result.exit_code == 0
        assert f"evoprune {command}" in result.stdout.split("Examples:")[1]


@pytest.mark.usefixtures("embedded")
def test_ask_the_embedded_model(picture: Path) -> None:
    result = ask("tiny", picture, "--compare")
    assert result.exit_code == 0, result.output
    assert "196" in result.stdout and "49" in result.stdout and "without pruning" in result.stdout


def needed(method: str, model: Path, folder: Path) -> list[str]:
    """Return what a method cannot do without for a model that brings nothing along."""
    if method == "cdpruner":
        return ["--set", "text_tower=embeddings"]
    if method != "fitprune":
        return []
    config = AutoConfig.from_pretrained(model)
    layers = config.text_config.num_hidden_layers
    recipe = Recipe(196, (52, *[45] * (layers - 1)), identify(config))
    write(folder / "recipe.json", [recipe])
    return ["--set", f"recipe={folder / 'recipe.json'}"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_ask_every_method_about_two_pictures(model: Path, picture: Path, tmp_path: Path, method: str) -> None:
    extra = needed(method, model, tmp_path)
    result = ask(model, picture, "--image", picture, "--method", method, "--json", *extra, keep=0.25)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["method"]["method"] == method and found["method"]["keep"] == 0.25
    inside = METHODS[method].stage == "decoder"
    assert found["pruned"]["visual_tokens_per_image"] == ([196, 196] if inside else [49, 49])
    assert found["pruned"]["visual_tokens"] == (392 if inside else 98)
    left = [block[-1] for block in found["pruned"].get("decoder_tokens", [])]
    assert left == ([] if not inside else [45, 45] if method == "fitprune" else [49, 49])
    assert "unpruned" not in found


@pytest.mark.parametrize(
    ("name", "method"), [*(("tiny", method) for method in sorted(METHODS)), ("tiny-video", "cdpruner"),
    ("tiny-video", "fitprune"), ("tiny-video", "fastv")],
)  # fmt: skip
def test_ask_an_embedded_model_by_every_method(picture: Path, name: str, method: str) -> None:
    """With nothing but a method and a budget, what else it needs comes with the model."""
    result = ask(name, picture, "--method", method, keep=24)
    assert result.exit_code == 0, result.output
    assert method in result.stdout


def test_ask_json_compares_and_counts(model: Path, picture: Path) -> None:
    found = json.loads(ask(model, picture, "--json", "--compare", "--schedule", "mean").stdout)
    assert found["unpruned"]["visual_tokens"] == 196
    assert found["pruned"]["tokens_after_each_layer"] == [175, 154, 133, 112, 91, 70, 49]
    assert 0 < found["tower_flop_ratio"]["to_model_as_shipped"] < found["tower_flop_ratio"]["to_layers_read"] < 1
    assert found["pruned"]["tower_flops"] < found["unpruned"]["tower_flops"]
    assert found["pruned"]["milliseconds"] > 0


@pytest.mark.parametrize(("mode", "size"), [("RGB", (1, 1)), ("RGB", (1, 5000)), ("RGBA", (300, 20)), ("P", (9, 9))])
def test_odd_pictures_are_answered(model: Path, tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    file = tmp_path / "odd.png"
    Image.new(mode, size).save(file)
    result = ask(model, file, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["pruned"]["visual_tokens"] == 49


def test_no_picture_and_broken_picture(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "text.png"
    refused(ask(model, file), "does not exist")
    file.write_text("no picture")
    refused(ask(model, file), "no picture")
    Image.new("RGB", (8, 8)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    refused(ask(model, file), "limit of 40 pixels")


def test_names_that_no_file_system_takes(model: Path, picture: Path, tmp_path: Path) -> None:
    long = "a" * 300
    refused(ask(model, tmp_path / long), "does not exist")
    refused(ask(long, picture), "hub")
    refused(ask("~nobody-of-that-name/model", picture), "does not exist")
    refused(call("demo", "--output", tmp_path / f"{long}.png"), "cannot be written")
    refused(call("demo", "--output", tmp_path / long / "demo.png"), "does not exist")


def test_keep_all_gives_the_unpruned_answer(model: Path, picture: Path) -> None:
    found = json.loads(ask(model, picture, "--json", "--compare", keep="all").stdout)
    assert found["method"]["keep"] == 1.0
    assert found["pruned"]["visual_tokens"] == found["unpruned"]["visual_tokens"] == 196
    assert found["pruned"]["answer"] == found["unpruned"]["answer"]


def test_settings_and_explicit_schedule_reach_the_method(model: Path, picture: Path) -> None:
    given = ("--set", "neighbors=3", "--set", "positions=original", "--set", "attention=false")
    found = json.loads(ask(model, picture, "--json", "--schedule", "0,98,49,0,0,0,0", *given).stdout)
    assert found["method"] | {"neighbors": 3, "positions": "original", "attention": False} == found["method"]
    assert found["method"]["schedule"] == [0, 98, 49, 0, 0, 0, 0]


@pytest.mark.usefixtures("embedded")
def test_demo_writes_a_picture_and_tells_counts(tmp_path: Path) -> None:
    file = tmp_path / "demo.png"
    result = call("demo", "--output", file, "--runs", 1)
    assert result.exit_code == 0, result.output
    assert "196" in result.stdout and "49" in result.stdout and "FLOPs" in result.stdout
    with Image.open(file) as written:
        assert written.format == "PNG" and min(written.size) > 500


@pytest.mark.usefixtures("embedded")
def test_demo_json_is_alone_on_stdout(tmp_path: Path) -> None:
    found = json.loads(call("demo", "--output", tmp_path / "demo.png", "--runs", 1, "--json", "--keep", 30).stdout)
    assert found["visual_tokens_per_picture"] == {"unpruned": 196, "pruned": 30}
    assert found["timing"]["runs"] == 1
    assert {row["ground"] for row in found["questions"]} == {"crop of a photograph", "whole photograph"}


@pytest.mark.parametrize("command", ["doctor", "models", "methods"])
def test_tables_as_text_and_json(command: str) -> None:
    text, found = call(command), json.loads(call(command, "--json").stdout)
    assert text.exit_code == 0 and text.stdout.strip()
    assert found


def test_doctor_tells_of_the_gpu() -> None:
    found = json.loads(call("doctor", "--json").stdout)
    assert found["attention"]["sdpa"] and found["attention"]["eager"]
    assert any(device["device"].startswith("cuda") for device in found["devices"]) == torch.cuda.is_available()
    assert torch.cuda.is_available() or not found["gpu_kernels"]["can_run"]


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (0, ["keep=0", "at least 1"]),
        ("-3", ["keep=-3", "at least 1"]),
        (500, ["keep=500", "196"]),
        (1.5, ["keep=1.5", "(0, 1]"]),
        ("0.0", ["keep=0.0", "(0, 1]"]),
        ("nan", ["keep=nan", "(0, 1]"]),
        ("many", ["'many'", "no number"]),
    ],
)
def test_wrong_keep(model: Path, picture: Path, keep: object, words: list[str]) -> None:
    refused(ask(model, picture, keep=keep), *words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--schedule", "skp"], ["'skp'", "did you mean 'skip'"]),
        (["--schedule", "last:99"], ["last:99", "1..7"]),
        (["--schedule", "first:1", "--keep", "20"], ["out of reach", "smallest reachable keep is 98"]),
        (["--schedule", "1,2"], ["2 counts for 7 layers"]),
        (["--method", "evprune"], ["'evprune'", "did you mean 'evoprune'"]),
        (["--method", "random", "--schedule", "skip"], ["'random'", "--schedule"]),
        (["--set", "neighbours=3"], ["'neighbours'", "did you mean 'neighbors'"]),
        (["--set", "neighbors"], ["name=value"]),
        (["--set", "neighbors=few"], ["neighbors='few'"]),
        (["--set", "keep=3"], ["--keep"]),
        (["--prompt", "an <image> inside"], ["<image>"]),
        (["--device", "cuda:99"], ["--device 'cuda:99'"]),
        (["--device", "toaster"], ["--device 'toaster'"]),
        (["--device", "hpu"], ["--device 'hpu'"]),
        (["--dtype", "int3"], ["--dtype 'int3'", "float32"]),
    ],
)
def test_wrong_options(model: Path, picture: Path, given: list[str], words: list[str]) -> None:
    refused(ask(model, picture, *given), *words)


def test_folder_without_a_model(tmp_path: Path, picture: Path) -> None:
    refused(ask(tmp_path, picture), "no model", "config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(ask(tmp_path, picture), "no model")
    (tmp_path / "config.json").write_text("{")
    refused(ask(tmp_path, picture), "no model")
    refused(ask(tmp_path / "config.json", picture), "is a file")
    refused(ask(tmp_path / "nowhere", picture), "does not exist")


def test_model_without_a_supported_tower(tmp_path: Path, picture: Path) -> None:
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    refused(ask(tmp_path, picture), "'bert'", "no supported family", "LLaVA-1.5")


def test_model_without_weights_or_processor(tmp_path: Path, model: Path, picture: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    refused(ask(tmp_path, picture), "processor")
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    refused(ask(tmp_path, picture), "weights")
    (tmp_path / "model.safetensors").write_bytes(b"\x10" * 40)
    refused(ask(tmp_path, picture), "weights")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_config": 5}, ["no model that transformers can load"]),
        ({"num_attention_heads": 7}, ["no model that transformers can load"]),
        ({"hidden_act": "nonsense"}, ["makes no model"]),
        ({"num_hidden_layers": 9}, ["do not fit its config", "16 are missing", "layers.8."]),
        ({"intermediate_size": 999}, ["do not fit its config", "mlp"]),
    ],
    ids=str,
)
def test_config_that_is_wrong(tmp_path: Path, model: Path, picture: Path, change: dict, words: list[str]) -> None:
    """Weights that do not fit are never filled with random numbers, and nothing ends in a traceback."""
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    config["vision_config"] = config["vision_config"] | change
    (tmp_path / "config.json").write_text(json.dumps(config | (change if "vision_config" in change else {})))
    refused(ask(tmp_path, picture), *words)


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_processor_that_is_broken(tmp_path: Path, model: Path, picture: Path, file: str) -> None:
    for content in ("{", "[]"):
        for good in model.iterdir():
            (tmp_path / good.name).write_bytes(good.read_bytes())
        (tmp_path / file).write_text(content)
        refused(ask(tmp_path, picture), "no processor")


@pytest.mark.parametrize("compare", [[], ["--compare"]])
@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("processor_config.json", {"patch_size": 4}, "784"),
        ("processor_config.json", {"patch_size": None}, "cannot make a prompt"),
        ("chat_template.jinja", "{% for %}", "cannot make a prompt"),
        # Who notices, and in which words, depends on the version of transformers: one sentence it is in all.
        ("chat_template.jinja", "no place for a picture", "Error: "),
    ],
)
def test_processor_that_does_not_fit_the_model(
    tmp_path: Path, model: Path, picture: Path, file: str, change: dict | str, word: str, compare: list[str]
) -> None:
    for good in model.iterdir():
        (tmp_path / good.name).write_bytes(good.read_bytes())
    if isinstance(change, dict):
        change = json.dumps(json.loads((model / file).read_text()) | change)
    (tmp_path / file).write_text(change)
    refused(ask(tmp_path, picture, *compare), word)


@pytest.mark.parametrize("answer", ["[red]", "[/]", "[bold]x[/bold]"])
def test_brackets_in_an_answer_are_no_markup(
    model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("evoprune.commands.ask.generate", lambda *given: [answer for _ in generate(*given)])
    result = ask(model, picture)
    assert result.exit_code == 0 and answer in result.stdout


def test_hub_out_of_reach(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(ask("evoprune-nobody/not-there", picture), "'evoprune-nobody/not-there'", "hub")


@pytest.mark.parametrize("name", ["missing/demo.png", "demo.jpg", "."])
def test_output_is_checked_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("evoprune.tiny.load", lambda: pytest.fail("work was done before the path was checked"))
    refused(call("demo", "--output", tmp_path / name), str(tmp_path))


def test_unwritable_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    refused(call("demo", "--output", tmp_path / "demo.png"), "Permission denied")


@pytest.mark.usefixtures("embedded")
def test_demo_with_wrong_keep(tmp_path: Path) -> None:
    refused(call("demo", "--output", tmp_path / "demo.png", "--keep", "0"), "keep=0")
    refused(call("demo", "--output", tmp_path / "demo.png", "--keep", "197"), "keep=197")
    assert not (tmp_path / "demo.png").exists()


def test_missing_embedded_model(tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_TINY_MODEL", str(tmp_path / "gone"))
    refused(ask("tiny", picture), "embedded model")
    refused(call("demo", "--output", tmp_path / "demo.png"), "embedded model")


def test_as_a_program(tmp_path: Path) -> None:
    """No traceback and the right streams when run as a process, too."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "60"}
    arguments = ["ask", str(tmp_path), "--image", str(tmp_path / "gone.png"), "--prompt", "x", "--keep", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "evoprune", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
