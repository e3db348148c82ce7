"""The conversion of original LLaVA-Video checkpoints, on tiny random ones that are renamed to the original's names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlavaOnevisionForConditionalGeneration

from evoprune import EvoPrune, apply
from tests.families import llava_onevision as ov
from tests.families.case import Video, settle

SCRIPT = Path(__file__).parents[2] / "examples" / "convert_llava_video.py"
TOKENS = (ov.IMAGE_ID, ov.VIDEO_ID)


def script() -> Any:
    spec = importlib.util.spec_from_file_location("convert_llava_video", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original_name(name: str) -> str:
    """Return what the original code calls a tensor of transformers."""
    for new, old in (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1", "model.mm_projector.0"),
        ("model.multi_modal_projector.linear_2", "model.mm_projector.2"),
        ("model.language_model.", "model."),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def write_original(folder: Path, model: Any, tied: bool) -> None:
    """Write a model in two shards under the original's names, with the original's kind of config."""
    tensors = {original_name(name): value.clone() for name, value in model.state_dict().items()}
    if tied:
        del tensors["lm_head.weight"]
    tensors["model.vision_tower.vision_tower.vision_model.head.probe"] = torch.zeros(1, 1, 32)
    names, folder_config = sorted(tensors), model.config.text_config.to_dict()
    # As configs of the original's time have it.
    folder_config["rope_theta"] = folder_config.pop("rope_parameters")["rope_theta"]
    folder_config["rope_scaling"] = None
    half = len(names) // 2
    folder.mkdir()
    for number, part in enumerate((names[:half], names[half:]), 1):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    config = {
        **folder_config, "model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"],
        "image_aspect_ratio": ov.LIMIT, "image_grid_pinpoints": "(1x1),...,(3x3)", "mm_spatial_pool_mode": "average",
        "mm_vision_tower": "a/siglip", "mm_vision_select_layer": -2, "tie_word_embeddings": tied,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, default=str))


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_converted_checkpoint_gives_the_same_logits(tmp_path: Path, tied: bool) -> None:
    config = ov.config()
    config.text_config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    torch.manual_seed(0)
    model = settle(LlavaOnevisionForConditionalGeneration(config))
    if tied:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    write_original(tmp_path / "original", model, tied)
    script().convert(tmp_path / "original", tmp_path / "new", heads=4, tokens=TOKENS)
    loaded, report = LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path / "new", output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    loaded.load_state_dict(model.state_dict(), strict=True)
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "new", dtype=torch.float32).eval()
    assert loaded.config.text_config.rope_parameters["rope_theta"] == 500.0
    assert loaded.config.image_grid_pinpoints == ov.RESOLUTIONS
    assert (loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight) == tied
    x = ov.inputs([("a ", Video(3, 30, 50, 4), " b ?")])
    assert torch.equal(loaded(**x).logits, model(**x).logits)
    with apply(loaded, EvoPrune(1.0), pool="average", newline="grid") as handle:
        loaded(**x)
        assert handle.stats.visual_tokens == (3 * 3 * 4,)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    convert = script()
    with pytest.raises(ValueError, match=r"tensor 'model\.vision_resampler\.weight' is in no part"):
        convert.new_name("model.vision_resampler.weight")
    assert convert.new_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        convert.convert(tmp_path / "empty", tmp_path / "new")
    model = ov.model()
    write_original(tmp_path / "original", model, False)
    with pytest.raises(ValueError, match=r"no room for the placeholders \(151646, 151647\)"):
        convert.convert(tmp_path / "original", tmp_path / "new", heads=4)
    next((tmp_path / "original").glob("*1-of*")).unlink()
    with pytest.raises((ValueError, KeyError)):
        convert.convert(tmp_path / "original", tmp_path / "new", heads=4, tokens=TOKENS)
    assert not (tmp_path / "new").exists()
