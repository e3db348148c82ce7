"""Methods inside the language model on the bench: their counts, their FLOPs, and where they cannot run."""

from __future__ import annotations

import pytest
import torch

from evoprune.bench.build import build, processors
from evoprune.bench.columns import columns
from evoprune.bench.inputs import Maker, Shape
from evoprune.bench.measure import Rounds
from evoprune.bench.run import Plan, bench, facts
from evoprune.bench.sweep import Sweep
from evoprune.models import find
from evoprune.pruners import DART, FastV, UniformGrid
from tests.bench.small import TEXT, small

PROMPT, NATIVE, KEPT, PICTURES = 12, 64, 8, 2


@pytest.fixture(scope="module")
def result():
    preset = small("llava-1.5-7b")
    model = build(preset)
    maker = Maker(find(model), *processors(preset), size=preset.picture, prompt=PROMPT)
    pruners = [FastV(keep=KEPT, layer=1), DART(keep=KEPT, layer=1), UniformGrid(keep=KEPT)]
    plan = Plan(pruners, [Shape(PICTURES)], "all", Rounds(1), decode=1)
    about = {"model": "small", "preset": None, "stages": "all", "attention": "sdpa"}
    head = facts(**about, dtype=torch.float32, device=torch.device("cpu"))
    return bench(model, maker, plan, Sweep(None, plan.configuration(), head))


def layer(tokens):
    """FLOPs of one layer: queries and output, keys and values, attention, three matrices of the MLP."""
    width, mlp, head = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["head_dim"]
    return 2 * tokens * (2 * width**2 + 2 * width * head + 3 * width * mlp) + 4 * tokens**2 * width


def test_counts(result):
    arms = {arm["name"]: arm for arm in result["cells"][0]["arms"]}
    assert [arm["error"] for arm in arms.values()] == [None] * 5
    assert arms["fastv 8"]["decoder_tokens"] == arms["dart 8"]["decoder_tokens"] == [[KEPT, KEPT]] * PICTURES
    assert arms["fastv 8"]["visual_tokens"] == PICTURES * NATIVE
    assert arms["grid 8"]["decoder_tokens"] == [] and arms["grid 8"]["visual_tokens"] == PICTURES * KEPT
    (shown,) = [one for one in columns(result, result["cells"][0]) if one.heading == "behind the LLM"]
    assert shown.cells == ("", "", str(PICTURES * KEPT), str(PICTURES * KEPT), "")


def test_torch_counts_the_layers_on_the_tokens_that_are_left(result):
    arms = {arm["name"]: arm["flops"] for arm in result["cells"][0]["arms"]}
    whole, left = PICTURES * NATIVE + PROMPT, PICTURES * KEPT + PROMPT
    rest = arms["native"]["prefill"] - 2 * layer(whole)  # what belongs to no layer
    assert 0 <= rest < 0.05 * arms["native"]["prefill"]
    assert arms["grid 8"]["prefill"] == pytest.approx(2 * layer(left) + rest, rel=0.02)
    assert arms["fastv 8"]["prefill"] == pytest.approx(layer(whole) + layer(left) + rest, rel=0.02)
    assert arms["dart 8"]["prefill"] == pytest.approx(layer(whole) + layer(left) + rest, rel=0.02)
    assert arms["fastv 8"]["pre_llm"] == arms["native-read"]["pre_llm"] == arms["dart 8"]["pre_llm"]


def test_the_encoder_alone_has_no_place_for_them():
    with pytest.raises(ValueError, match="fastv acts inside the language model, which stages='encoder' does not run"):
        Plan([UniformGrid(keep=4), FastV(keep=4)], [Shape(1)], "encoder")
