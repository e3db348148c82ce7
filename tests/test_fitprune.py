"""FitPrune as a method: recipes good and bad, which one is chosen, what leaves each layer, what goes."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evoprune import recipe_files
from evoprune.apply import apply
from evoprune.pruners import DecoderView, FitPrune, Pruner
from evoprune.recipes import Identity, Recipe, identify
from tests import builders

MODEL = Identity("llava", 32, 64, 2, "tiny", "abc")
HALF, QUARTER = Recipe(64, (40, 24), MODEL, reduce=0.4), Recipe(64, (20, 12), MODEL, reduce=0.6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipes.json"
    recipe_files.write(path, [HALF, QUARTER])
    return path


def written(path: Path, **changed: Any) -> Path:
    """Write a file of one recipe, with changes as a hand would make them; None takes a field out."""
    values = {**HALF.to_dict(), **changed}
    for name in ("mean", "removed"):
        if name not in changed:
            del values[name]
    values = {name: value for name, value in values.items() if value is not None or name == "alpha"}
    path.write_text(json.dumps({"format": recipe_files.FORMAT, "recipes": [values]}))
    return path


class TestRecipes:
    def test_round_trip(self, tmp_path: Path) -> None:
        facts = {"seed": 3, "packages": {"torch": "2"}}
        recipe = Recipe(196, [150, 90, 90], Identity("x", 8, 16, 3), reduce=0.4, alpha=0.2, items=5, manifest=facts)
        path = tmp_path / "recipe.json"
        recipe_files.write(path, [recipe])
        assert recipe_files.read(path) == recipe_files.read(str(path)) == (recipe,)
        assert recipe_files.read(json.loads(path.read_text())) == recipe_files.read(recipe.to_dict()) == (recipe,)
        assert recipe_files.read(path)[0].manifest == facts and hash(recipe) == hash(recipe_files.read(path)[0])
        assert [one.name for one in tmp_path.iterdir()] == ["recipe.json"]

    def test_what_follows_from_the_counts(self) -> None:
        d, m = 32, 64
        full = 2 * (4 * 64 * d * d + 2 * 64**2 * d + 3 * 64 * d * m)
        left = 3 * 64 * d * d + 2 * 64**2 * d + 40 * (d * d + 3 * d * m)
        left += 3 * 40 * d * d + 2 * 40**2 * d + 24 * (d * d + 3 * d * m)
        assert HALF.removed == pytest.approx(1 - left / full) and HALF.mean == 0.5
        assert HALF.unpruned().removed == 0.0 and HALF.unpruned().mean == 1.0

    def test_several_share_what_they_have_in_common(self, file: Path) -> None:
        values = json.loads(file.read_text())
        assert values["model"]["name"] == "tiny" and "model" not in values["recipes"][0]
        assert recipe_files.read(file) == (HALF, QUARTER)

    def test_a_failed_write_leaves_the_old_file(self, file: Path) -> None:
        before = file.read_bytes()
        with pytest.raises(ValueError):
            recipe_files.write(file, [dataclasses.replace(HALF, manifest={"nan": math.nan})])
        assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1

    def test_identity_does_not_depend_on_names_and_folders(self) -> None:
        config = builders.config()
        found = identify(config, "somewhere")
        assert found == dataclasses.replace(MODEL, name="somewhere", fingerprint=found.fingerprint)
        config._name_or_path, config.transformers_version = "elsewhere", "9"
        assert identify(config, "somewhere") == found
        config.vision_config.num_hidden_layers = 7
        assert identify(config, "somewhere").fingerprint != found.fingerprint
        with pytest.raises(ValueError, match="one whole number for each"):
            identify(SimpleNamespace(model_type="x", hidden_size=8, intermediate_size=[1, 2], num_hidden_layers=2))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"left": [20, 30]}, r"left\[1\]=30 is above the 20 tokens"),
        ({"left": [65, 30]}, r"left\[0\]=65 is above the 64 tokens"),
        ({"left": [20, 0]}, r"left\[1\]=0 is below 1"),
        ({"left": [20, -4]}, r"left\[1\]=-4 is below 1"),
        ({"left": [20]}, "left has 1 counts, but the model has 2 layers"),
        ({"left": [20, 10, 5]}, "left has 3 counts"),
        ({"left": [20.5, 10]}, r"left\[0\]=20.5 is no whole number"),
        ({"left": ["20", 10]}, r"left\[0\]='20' is no whole number"),
        ({"left": [True, True]}, r"left\[0\]=True is no whole number"),
        ({"left": "2010"}, "left='2010' is no list"),
        ({"left": {"0": 1}}, "is no list"),
        ({"left": None}, "does not tell left"),
        ({"tokens": 0}, "tokens=0 is below 1"),
        ({"tokens": [64]}, r"tokens=\[64\] is no whole number"),
        ({"items": 0}, "items=0 is below 1"),
        ({"reduce": 1.5}, "reduce=1.5 is no share in 0..1"),
        ({"reduce": "0.5"}, "reduce='0.5' is no share"),
        ({"alpha": -0.1}, "alpha=-0.1 is no share"),
        ({"removed": 0.9}, "removed=0.9 was changed, or left was"),
        ({"mean": 10**400}, "is no share"),
        ({"official": 1}, "official true or false"),
        ({"manifest": []}, "manifest is a JSON object"),
        ({"model": None}, "does not tell model"),
        ({"model": 3}, "model=3 does not tell which model"),
        ({"model": {"hidden_size": 32}}, "does not tell model_type and intermediate_size and layers"),
        ({"model": {**dataclasses.asdict(MODEL), "layers": 0}}, "layers=0 is below 1"),
        ({"model": {**dataclasses.asdict(MODEL), "name": 3}}, "name=3 is no text"),
        ({"model": {**dataclasses.asdict(MODEL), "widht": 3}}, "unknown field of a model 'widht'"),
        ({"lefft": [1, 2]}, "did you mean 'left'"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_a_sentence(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = written(tmp_path / "edited.json", **changed)
    with pytest.raises(ValueError, match=words) as raised:
        FitPrune(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


class Danger:
    def __reduce__(self) -> Any:
        return print, ("opened",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON, or cut off"),
        (b"{", "no JSON, or cut off"),
        (b"\xff\xfe\x00", "no JSON, or cut off"),
        (b'{"format": "evoprune-fitprune-1", "recipes": [{"tokens": NaN}]}', "NaN is no number of JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON, or cut off"),
        (b"[" * 100_000, "nested too deeply"),
        (pickle.dumps(Danger()), "is a pickle"),
        (pickle.dumps({"a": Danger()}, protocol=0), "no JSON, or cut off"),
        (b"PK\x03\x04 what torch.save writes", "is a pickle"),
        (b"[1, 2]", "holds a JSON list"),
        (b"3", "holds a JSON int"),
        (b"{}", "has the format None"),
        (b'{"format": "evoprune-fitprune-9", "recipes": []}', "has the format 'evoprune-fitprune-9'"),
        (b'{"format": "evoprune-fitprune-1"}', "lists no recipes"),
        (b'{"format": "evoprune-fitprune-1", "recipes": []}', "lists no recipes"),
        (b'{"format": "evoprune-fitprune-1", "recipes": [7]}', "is 7, no recipe"),
        (b'{"format": "evoprune-fitprune-1", "recipe": []}', "did you mean 'recipes'"),
    ],
)
def test_broken_files_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as raised:
        FitPrune(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)
    assert capsys.readouterr().out == "", "nothing in a file is ever run"


def test_every_truncation_is_refused(file: Path) -> None:
    whole = file.read_bytes().rstrip()
    for end in range(0, len(whole), 7):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="no JSON, or cut off"):
            FitPrune(0.5, recipe=file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing.json does not exist"):
        FitPrune(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="is a folder"):
        FitPrune(tmp_path)


class TestChoosing:
    def test_the_recipe_itself(self, tmp_path: Path) -> None:
        recipe_files.write(tmp_path / "one.json", [HALF])
        values = json.loads((tmp_path / "one.json").read_text())
        for given in (tmp_path / "one.json", str(tmp_path / "one.json"), HALF, values, HALF.to_dict()):
            pruner = FitPrune(given)
            assert pruner.recipe == HALF and pruner.keep == 0.5
            assert pruner == FitPrune(0.5, recipe=given) and hash(pruner) == hash(FitPrune(0.5, recipe=given))
            assert Pruner.from_dict(json.loads(json.dumps(pruner.to_dict()))) == pruner
        assert FitPrune(HALF) != FitPrune(QUARTER)

    def test_by_keep(self, file: Path) -> None:
        for keep, wanted in ((0.5, HALF), (0.6, HALF), (32, HALF), (0.49, QUARTER), (16, QUARTER), (0.25, QUARTER)):
            pruner = FitPrune(keep, recipe=file)
            assert pruner.recipe == wanted
            assert Pruner.from_dict(json.loads(json.dumps(pruner.to_dict()))) == pruner
        for keep in (1.0, 64):
            assert FitPrune(keep, recipe=file).leaves(64, 2) == (64, 64)
        for keep in (0.2, 15):
            with pytest.raises(ValueError, match=r"a mean of 0.500, 0.250.*evoprune fit --reduce"):
                FitPrune(keep, recipe=file)
        with pytest.raises(ValueError, match="keep=65 is above the 64 tokens"):
            FitPrune(65, recipe=file)

    def test_tokens_of_a_frame_are_its_share_of_the_clip(self) -> None:
        clip = Recipe(200, (100, 60), MODEL, items=8)
        assert FitPrune(10, recipe=clip).recipe == FitPrune(0.4, recipe=clip).recipe == clip
        with pytest.raises(ValueError, match="keep=26 is above the 25 tokens"):
            FitPrune(26, recipe=clip)

    def test_one_of_several_has_to_be_named(self, file: Path) -> None:
        with pytest.raises(ValueError, match=r"holds 2 recipes, which leave 0.500, 0.250"):
            FitPrune(file)
        with pytest.raises(ValueError, match="two recipes are given"):
            FitPrune(file, recipe=file)
        with pytest.raises(ValueError, match="recipe=3 is no recipe"):
            FitPrune(0.5, recipe=3)

    def test_recipes_of_two_models(self, tmp_path: Path) -> None:
        other = dataclasses.replace(HALF, model=dataclasses.replace(MODEL, hidden_size=64))
        recipe_files.write(tmp_path / "mixed.json", [HALF, other])
        with pytest.raises(ValueError, match="recipes for 2 models"):
            FitPrune(0.5, recipe=tmp_path / "mixed.json")

    def test_without_a_recipe(self) -> None:
        pruner = FitPrune(4)
        assert pruner.recipe is None and Pruner.from_dict(pruner.to_dict()) == pruner
        with pytest.raises(ValueError, match=r"has no recipe.*evoprune fit"):
            pruner.leaves(64, 2)


class TestLeaves:
    def test_shares_are_kept_on_other_numbers_of_tokens(self) -> None:
        for tokens in (1, 2, 5, 63, 64, 65, 577, 2928):
            found = FitPrune(HALF).leaves(tokens, 2)
            assert found == tuple(max(1, math.floor(tokens * left / 64 + 0.5)) for left in (40, 24))
            assert tokens >= found[0] >= found[1] >= 1
        assert FitPrune(HALF).leaves(64, 2) == (40, 24) and FitPrune(HALF).tokens_after(128) == 48
        assert FitPrune(Recipe(600, (2, 1), MODEL)).leaves(10, 2) == (1, 1)

    def test_another_depth_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"tiny with layers=2, .* has layers=3.*evoprune fit"):
            FitPrune(HALF).leaves(64, 3)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"layers": 3}, "with layers=2, .* has layers=3"),
            ({"hidden_size": 64}, "with hidden_size=32, .* has hidden_size=64"),
            ({"intermediate_size": 128}, "with intermediate_size=64, .* has intermediate_size=128"),
            ({"model_type": "llava_next"}, "with model_type=llava, .* has model_type=llava_next"),
        ],
    )
    def test_another_model_is_refused(self, change: dict[str, Any], words: str) -> None:
        FitPrune(HALF).check_model(dataclasses.replace(MODEL, name="x", fingerprint="y"))
        with pytest.raises(ValueError, match=words):
            FitPrune(HALF).check_model(dataclasses.replace(MODEL, **change))

    def test_refused_when_it_is_applied(self, llava: Any) -> None:
        for width, left in ((48, (40, 24)), (32, (40, 24, 9))):
            recipe = Recipe(64, left, Identity("llava", width, 64, len(left)))
            with pytest.raises(ValueError, match="but this model has"):
                apply(llava, FitPrune(recipe))
        with pytest.raises(ValueError, match="evoprune fit"):
            apply(llava, FitPrune(0.5))


def literal(cross: list[float], within: list[float], keep: int) -> list[int]:
    return sorted(sorted(range(len(cross)), key=lambda i: (-cross[i] * within[i], i))[:keep])


class TestSelect:
    @pytest.mark.parametrize("keep", [1, 3, 8, 20])
    def test_the_smallest_products_go(self, keep: int) -> None:
        cross = torch.rand(3, 20, generator=torch.Generator().manual_seed(keep))
        within = torch.rand(3, 20, generator=torch.Generator().manual_seed(keep + 100))
        found = FitPrune(HALF).select(DecoderView(cross=cross, within=within), keep)
        assert found.dtype == torch.int64
        assert found.tolist() == [literal(c, w, keep) for c, w in zip(cross.tolist(), within.tolist(), strict=True)]

    def test_ties_go_to_the_lower_index(self) -> None:
        cross = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0, 0.0]])
        view = DecoderView(cross=cross, within=torch.ones_like(cross))
        for keep, wanted in ((1, [1]), (2, [1, 3]), (4, [1, 2, 3, 4]), (5, [0, 1, 2, 3, 4])):
            assert FitPrune(HALF).select(view, keep).tolist() == [wanted]

    def test_says_what_it_needs(self) -> None:
        assert FitPrune(HALF).needs == {"sums"} and FitPrune(HALF).inside and FitPrune.stage == "decoder"
        with pytest.raises(ValueError, match=r"FitPrune.needs"):
            FitPrune(HALF).select(DecoderView(cross=torch.ones(1, 4)), 2)


def test_edits_of_what_recipes_share_are_seen(file: Path) -> None:
    values = json.loads(file.read_text())
    values["model"]["layers"] = 5
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="recipe 1: left has 2 counts, but the model has 5 layers"):
        FitPrune(0.5, recipe=file)
