"""LLaVA-OneVision in the table: tiles of 7 x 7 patches, frames pooled to 4 x 4, or to 3 x 3 as LLaVA-Video has it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests import builders
from tests.families.case import Case, Picture, Row, Video, drawn, settle, texts_of, tokenizer

SIDE, PATCH = 7, 4
PIXELS = SIDE * PATCH
RESOLUTIONS = [[PIXELS * a, PIXELS * b] for a in (1, 2, 3) for b in (1, 2, 3)]
LIMIT = "anyres_max_2"  # so that pictures of 2 x 2 tiles and more are shrunk
IMAGE_ID, VIDEO_ID = builders.IMAGE_TOKEN, len(builders.SPECIAL) + len(builders.BYTES)


def config(layers: int = 6, side: int = SIDE, **settings: Any) -> LlavaOnevisionConfig:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, image_size=side * PATCH,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=VIDEO_ID + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    plain = {
        "vision_config": vision, "text_config": text, "image_grid_pinpoints": RESOLUTIONS, "vision_aspect_ratio": LIMIT,
        "image_token_index": IMAGE_ID, "video_token_index": VIDEO_ID,
    }  # fmt: skip
    return LlavaOnevisionConfig(**{**plain, **settings})


def model(**settings: Any) -> Any:
    torch.manual_seed(0)
    return settle(LlavaOnevisionForConditionalGeneration(config(**settings)))


@functools.cache
def processor() -> Any:
    size = {"height": PIXELS, "width": PIXELS}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=RESOLUTIONS), tokenizer("<video>"),
        LlavaOnevisionVideoProcessor(size=size), num_image_tokens=SIDE**2, vision_feature_select_strategy="full",
        vision_aspect_ratio=LIMIT,
    )  # fmt: skip


def inputs(rows: Sequence[Row]) -> dict[str, Any]:
    return dict(
        processor()(
            images=drawn(rows, Picture) or None, videos=drawn(rows, Video) or None, text=texts_of(rows, "<image>"),
            return_tensors="pt", padding=True,
        )
    )  # fmt: skip


# (height, width): tiles with the base one, placeholders; as the processor of transformers 5.17 wrote them.
SIZES = {
    (20, 90): (4, 159), (50, 40): (5, 149), (17, 19): (2, 105), (32, 32): (5, 139), (64, 64): (10, 139),
    (30, 70): (7, 139), (70, 30): (7, 147), (90, 20): (4, 175), (96, 33): (7, 161), (33, 96): (7, 151),
    (61, 61): (10, 139), (41, 120): (7, 151), (120, 41): (7, 161), (100, 77): (10, 148), (77, 100): (10, 145),
    (13, 60): (4, 159), (60, 13): (4, 175), (48, 52): (5, 148), (127, 128): (10, 139), (35, 71): (7, 139),
    (71, 36): (7, 147), (59, 110): (7, 147), (28, 28): (2, 105),
}  # fmt: skip


def full(part: Picture | Video) -> int:
    if isinstance(part, Video):
        return 16 * part.frames + 1
    return SIZES[part.height, part.width][1]


def short(part: Picture | Video, keep: int | float) -> int:
    if isinstance(part, Video):
        return part.frames * (keep if isinstance(keep, int) else int(keep * 16 + 0.5)) + 1
    return SIZES[part.height, part.width][0] * (keep if isinstance(keep, int) else int(keep * 49 + 0.5)) + 1


def short_as_trained(part: Picture | Video, keep: int | float) -> int:
    """Return the tokens with 3 x 3 averages, of which the share counts, and a newline a frame."""
    if isinstance(part, Video):
        return part.frames * ((keep if isinstance(keep, int) else int(keep * 9 + 0.5)) + 1)
    return short(part, keep)


PICTURES = tuple(Picture(*size, seed) for seed, size in enumerate(SIZES))
VIDEOS = tuple(Video(frames, 40, 30 + 7 * frames, frames) for frames in (2, 1, 3, 5, 8))

CASES = [
    Case("llava_onevision", "LLaVA-OneVision", model, inputs, PICTURES, full, short, keep=9, videos=VIDEOS),
    Case(
        "llava_video", "LLaVA-OneVision", model, inputs, PICTURES[:20], full, short_as_trained, keep=6, videos=VIDEOS,
        options={"pool": "average", "newline": "grid"},
    ),
]  # fmt: skip
