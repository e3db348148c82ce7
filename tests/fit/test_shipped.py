"""The recipes that come with the embedded models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoConfig

from evoprune import tiny
from evoprune.commands import loading
from evoprune.pruners import FitPrune
from evoprune.recipe_files import read
from evoprune.recipes import Recipe, identify
from evoprune.tiny import video

HOMES: list[tuple[str, ModuleType, int]] = [("tiny", tiny, 196), ("tiny-video", video, 201)]


def recipes(name: str) -> Sequence[Recipe]:
    return read(loading.defaults(name)["recipe"])


@pytest.mark.parametrize(("name", "home", "tokens"), HOMES)
def test_are_of_the_shipped_weights(name: str, home: ModuleType, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOPRUNE_TINY_MODEL", raising=False)
    monkeypatch.delenv("EVOPRUNE_TINY_VIDEO_MODEL", raising=False)
    wanted = identify(AutoConfig.from_pretrained(home.folder()), name)
    for recipe in recipes(name):
        assert recipe.model == wanted and recipe.tokens == tokens and not recipe.official
        assert recipe.reduce <= recipe.removed < recipe.reduce + 0.01
        assert recipe.manifest["packages"]["torch"] and recipe.manifest["seed"] == 0


@pytest.mark.parametrize(("name", "most"), [("tiny", 0.87), ("tiny-video", 0.91)])
def test_cover_what_can_be_asked_for(name: str, most: float) -> None:
    asked = [recipe.reduce for recipe in recipes(name)]
    assert asked == [round(i / 100, 2) for i in range(5, round(most * 100) + 1)]
    means = [recipe.mean for recipe in recipes(name)]
    assert means == sorted(means, reverse=True)
    for keep in (1 / 2, 1 / 4, 1 / 8, 1 / 16):
        chosen = FitPrune(keep, recipe=loading.defaults(name)["recipe"])
        assert keep - 0.015 < chosen.recipe.mean <= keep


def test_only_embedded_models_have_them(tmp_path: Path) -> None:
    assert loading.defaults("tiny")["text_tower"] == "embeddings"
    assert loading.defaults("llava-hf/llava-1.5-7b-hf") == loading.defaults(str(tmp_path)) == {}


@pytest.mark.parametrize(("name", "home", "tokens"), HOMES)
def test_are_small_files_of_plain_json(name: str, home: ModuleType, tokens: int) -> None:
    file = Path(loading.defaults(name)["recipe"])
    assert file.parent == Path(str(home.__file__)).parent and file.stat().st_size < 64_000
    values = json.loads(file.read_text(encoding="utf-8"))
    assert values["manifest"]["command"].startswith(f"evoprune fit {name} --reduce 0.05,")
