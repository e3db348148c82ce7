"""Presets that are published ones in everything but width and depth: quick, and no network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evoprune.bench.presets import Preset
from evoprune.bench.published import PRESETS

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 200, "head_dim": 16,
}  # fmt: skip
IDS = {"vision_start_token_id": 190, "vision_end_token_id": 191, "image_token_id": 192, "video_token_id": 193}
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}


def small(name: str) -> Preset:
    """Return the preset `name` with a tower of four layers and a language model of two, both 32 wide."""
    preset = PRESETS[name]
    kind = preset.kind
    vision, more, size = dict(preset.vision), dict(preset.more), preset.picture
    if kind.startswith("Qwen"):
        vision |= {"depth": 4, "num_heads": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
        if kind == "Qwen2VL":
            vision |= {"embed_dim": 32, "mlp_ratio": 2}
            del vision["intermediate_size"], vision["out_hidden_size"]
        if kind == "Qwen2_5_VL":
            vision["fullatt_block_indexes"] = [1, 2]
        if kind == "Qwen3VL":
            vision["deepstack_visual_indexes"] = [1, 2]
        size = (112, 112) if kind != "Qwen3VL" else (256, 256)
    else:
        vision |= WIDE
    pictures, videos = preset.image_processor, preset.video_processor
    if "image_size" in vision:  # eight patches a side, and what goes with it
        side = vision["image_size"] if isinstance(vision["image_size"], int) else vision["image_size"][0]
        patch = vision["patch_size"] if isinstance(vision["patch_size"], int) else vision["patch_size"][0]
        vision, more, pictures, videos = (_scaled(one, side, 8 * patch) for one in (vision, more, pictures, videos))
        size = (100, 70)
        if kind == "InternVL":
            more["image_seq_length"] = 16
    if "projection_dim" in vision:
        vision["projection_dim"] = 16
    text: dict[str, Any] = {**preset.text, **TEXT}
    if "rope_parameters" in text:
        text["rope_parameters"] = {**text["rope_parameters"], "mrope_section": [4, 2, 2]}
    for key in more:
        if key in IDS or key in ("image_token_index", "video_token_index"):
            more[key] = IDS[key.replace("index", "id")]
    return replace(
        preset, name=f"small-{name}", vision=vision, text=text, more=more, picture=size, frames=None,
        image_processor=pictures, video_processor=videos,
    )  # fmt: skip


def _scaled(value: Any, old: int, new: int) -> Any:
    """Return `value` with every multiple of `old` pixels in it as the multiple of `new`."""
    if isinstance(value, dict):
        return {key: _scaled(one, old, new) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_scaled(one, old, new) for one in value)
    return value // old * new if type(value) is int and value and value % old == 0 else value
