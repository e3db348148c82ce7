"""What models come as: quantised, spread by a device map, compiled, with an assistant model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, TorchAoConfig

from evoprune import EvoPrune, Random, apply
from tests import builders
from tests.families.table import CASES

torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
TEXTS, SEEDS = ["USER: <image> what ?", "b <image> and <image>"], [1, 2, 3]


@pytest.fixture(scope="module")
def x() -> dict[str, torch.Tensor]:
    return builders.inputs(TEXTS, SEEDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("model")
    builders.model().save_pretrained(folder)
    return folder


def eight_bits(saved: Path) -> Any:
    settings = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    model = AutoModelForImageTextToText.from_pretrained(
        saved, quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def test_a_model_in_eight_bits(saved: Path, x: Any) -> None:
    model = eight_bits(saved)
    block = model.model.vision_tower.encoder.layers[0]
    assert type(block.mlp.fc1.weight) is not torch.nn.Parameter  # the tower itself is quantised
    native = model(**x).logits
    assert 0 < (native - builders.model()(**x).logits).abs().max() < 0.5
    for pruner in (EvoPrune(16), Random(16)):
        with apply(model, pruner) as handle:
            out = model.generate(**x, max_new_tokens=3, do_sample=False)
            assert handle.stats.visual_tokens == (16, 16, 16)
            alone = builders.inputs(TEXTS[:1], SEEDS[:1])
            assert torch.equal(model.generate(**alone, max_new_tokens=3, do_sample=False)[0, -3:], out[0, -3:])
    with apply(model, EvoPrune(1.0)):
        assert torch.equal(model(**x).logits, native)
    assert torch.equal(model(**x).logits, native)


@torch.no_grad()
def test_a_device_map(saved: Path, x: Any) -> None:
    from accelerate import dispatch_model

    model = builders.model()
    with apply(model, EvoPrune(16)):
        expected = model(**x).logits
    places = {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu", "model.language_model": "cpu"}
    spread = dispatch_model(
        builders.model(), {**places, "lm_head": "cpu"}, main_device="cpu", offload_dir=str(saved / "offload")
    )
    native = spread(**x).logits
    with apply(spread, EvoPrune(16)) as handle:
        torch.testing.assert_close(spread(**x).logits.cpu(), expected)
        assert handle.stats.visual_tokens == (16, 16, 16)
    assert torch.equal(spread(**x).logits, native)


@pytest.mark.parametrize("assistant", ["itself", "itself, pruned", "looking up the prompt"])
@torch.no_grad()
def test_assisted_generation_says_what_plain_generation_says(assistant: str) -> None:
    x = builders.inputs(TEXTS[:1], SEEDS[:1])
    model, helper = builders.model(), builders.model()
    how: dict[str, Any] = {"prompt_lookup_num_tokens": 2}
    if assistant.startswith("itself"):
        how = {"assistant_model": helper}
    with apply(model, EvoPrune(16)):
        plain = model.generate(**x, max_new_tokens=8, do_sample=False)
        if assistant == "itself, pruned":
            with apply(helper, EvoPrune(16)):
                assisted = model.generate(**x, max_new_tokens=8, do_sample=False, **how)
        else:
            assisted = model.generate(**x, max_new_tokens=8, do_sample=False, **how)
    assert torch.equal(plain, assisted)


@torch.no_grad()
def test_the_pruned_tower_compiles_in_half_precision_with_eager_attention() -> None:
    model = builders.model(attention="eager").to(torch.bfloat16)
    pixels = builders.inputs(TEXTS, SEEDS)["pixel_values"].to(torch.bfloat16)
    tower = model.model.vision_tower
    torch.compiler.reset()
    with apply(model, EvoPrune(16)) as handle:
        expected = tower(pixels).last_hidden_state
        compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")(pixels).last_hidden_state
        assert expected.shape[1] == 17 and handle.stats.tokens[-1] == 16
        torch.testing.assert_close(compiled, expected, atol=5e-2, rtol=5e-2)


@torch.no_grad()
def test_a_pruned_tower_with_units_compiles_into_one_graph() -> None:
    case = next(case for case in CASES if case.name == "internvl")
    model = case.model()
    pixels = case.inputs([("a ", case.pictures[0], " b")])["pixel_values"][:2]  # two tiles
    tower = model.model.vision_tower
    torch.compiler.reset()
    with apply(model, EvoPrune(4, schedule="mean")) as handle:
        expected = tower(pixels).last_hidden_state
        compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")(pixels).last_hidden_state
        assert handle.stats.tokens[-1] == 4
        torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-5)
