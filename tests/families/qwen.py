"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL in the table: pictures of any size, patches of 4 pixels, units of 8 x 8 pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.families.case import Case, Picture, Row, Video, draw, drawn, settle, texts_of, tokenizer

PATCH, UNIT = 4, 8
START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
}  # fmt: skip
SEEN = {"in_channels": 3, "patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2, "num_heads": 4}


@functools.cache
def words() -> Any:
    named = {"image_token": IMAGE, "video_token": VIDEO, "vision_start_token": START, "vision_end_token": END}
    return tokenizer(START, END, IMAGE, VIDEO, **named)


def ids() -> dict[str, int]:
    found = words().convert_tokens_to_ids([START, END, IMAGE, VIDEO])
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, found, strict=True))


def qwen2(**settings: Any) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {"depth": 6, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, **SEEN}
    config = Qwen2VLConfig(text_config={**TEXT, "vocab_size": len(words())}, vision_config=vision, **ids())
    return built(Qwen2VLForConditionalGeneration, config, **settings)


def qwen25(fullatt: Sequence[int] = (1, 3, 4, 5), **settings: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        "depth": 6, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 2 * UNIT,
        "fullatt_block_indexes": list(fullatt), "tokens_per_second": 2, **SEEN,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config={**TEXT, "vocab_size": len(words())}, vision_config=vision, **ids())
    return built(Qwen2_5_VLForConditionalGeneration, config, **settings)


def qwen3(deepstack: Sequence[int] = (1, 3), **settings: Any) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {
        "depth": 6, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 36,
        "deepstack_visual_indexes": list(deepstack), **SEEN,
    }  # fmt: skip
    text = {**TEXT, "vocab_size": len(words()), "head_dim": 8}
    return built(
        Qwen3VLForConditionalGeneration, Qwen3VLConfig(text_config=text, vision_config=vision, **ids()), **settings
    )


def qwen3_moe(**settings: Any) -> Any:
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    vision = {**qwen3().config.vision_config.to_dict(), "model_type": "qwen3_vl_moe_vision"}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    text = {**TEXT, "vocab_size": len(words()), "head_dim": 8, **experts}
    config = Qwen3VLMoeConfig(text_config=text, vision_config=vision, **ids())
    return built(Qwen3VLMoeForConditionalGeneration, config, **settings)


def built(kind: Any, config: Any, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    return settle(kind._from_config(config, attn_implementation=attention))


@functools.cache
def processor(number: str) -> Any:
    import transformers

    size = {"shortest_edge": UNIT**2, "longest_edge": 1000 * UNIT**2}
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    images = transformers.Qwen2VLImageProcessor(**sizes)
    kinds = {
        "2": ("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
        "2.5": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        "3": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    }
    whole, video = (getattr(transformers, name) for name in kinds[number])
    videos = video(**sizes, do_sample_frames=False)
    return whole(image_processor=images, tokenizer=words(), video_processor=videos)


def inputs(rows: Sequence[Row], number: str) -> dict[str, Any]:
    clips = [list(draw(part)) for row in rows for part in row if isinstance(part, Video)]
    texts = texts_of(rows, START + IMAGE + END, VIDEO if number == "3" else START + VIDEO + END)
    more: dict[str, Any] = {"videos": clips, "do_sample_frames": False} if clips else {}
    if clips and number != "2":
        more["video_metadata"] = [
            {"total_num_frames": len(clip), "fps": 2.0, "frames_indices": list(range(len(clip))), "duration": 1.0}
            for clip in clips
        ]
    return dict(
        processor(number)(images=drawn(rows, Picture) or None, text=texts, return_tensors="pt", padding=True, **more)
    )


def units(part: Picture | Video) -> int:
    """Of a picture or of two frames: sides are rounded to whole units."""
    return round(part.height / UNIT) * round(part.width / UNIT)


def slices(part: Picture | Video) -> int:
    return math.ceil(part.frames / 2) if isinstance(part, Video) else 1


def full(part: Picture | Video) -> int:
    return slices(part) * units(part)


def short(part: Picture | Video, keep: int | float) -> int:
    return slices(part) * (keep if isinstance(keep, int) else int(keep * units(part) + 0.5))


SIZES = (
    (32, 48), (24, 40), (40, 24), (32, 32), (37, 61), (64, 24), (24, 64), (72, 16), (16, 72), (48, 48), (30, 42),
    (51, 33), (56, 40), (40, 56), (33, 33), (80, 24), (24, 80), (29, 45), (45, 29), (64, 64), (36, 100), (100, 28),
)  # fmt: skip
PICTURES = tuple(Picture(height, width, seed) for seed, (height, width) in enumerate(SIZES))
VIDEOS = tuple(
    Video(frames, height, width) for frames, height, width in ((4, 24, 32), (2, 32, 24), (5, 40, 24), (8, 24, 24))
)


def case(number: str, model: Callable[[], Any]) -> Case:
    return Case(
        name=f"qwen{number}",
        family=f"Qwen{number}-VL",
        model=model,
        inputs=functools.partial(inputs, number=number),
        pictures=PICTURES,
        videos=VIDEOS,
        full=full,
        short=short,
        keep=6,
    )


CASES = [case("2", qwen2), case("2.5", qwen25), case("3", qwen3)]
