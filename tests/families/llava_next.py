"""LLaVA-NeXT and LLaVA-NeXT-Video in the table: tiles of 8 x 8 patches, frames pooled to 4 x 4."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
)

from tests import builders
from tests.families.case import Case, Picture, Row, Video, drawn, settle, texts_of, tokenizer

SIDE, PATCH = 8, 4
PIXELS = SIDE * PATCH
RESOLUTIONS = [[PIXELS * a, PIXELS * b] for a, b in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
IMAGE_ID, VIDEO_ID = builders.IMAGE_TOKEN, len(builders.SPECIAL) + len(builders.BYTES)


def configs(layers: int = 6) -> dict[str, Any]:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, image_size=PIXELS,
        patch_size=PATCH, projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=VIDEO_ID + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return {"vision_config": vision, "text_config": text, "image_grid_pinpoints": RESOLUTIONS}


def model(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = LlavaNextConfig(**{**configs(), "image_token_index": IMAGE_ID, **settings})
    return settle(LlavaNextForConditionalGeneration(config))


def video_model(**settings: Any) -> Any:
    torch.manual_seed(0)
    ids = {"image_token_index": IMAGE_ID, "video_token_index": VIDEO_ID}
    return settle(LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(**{**configs(), **ids, **settings})))


def image_processor() -> Any:
    size = {"height": PIXELS, "width": PIXELS}
    return LlavaNextImageProcessor(
        size={"shortest_edge": PIXELS}, crop_size=size, image_grid_pinpoints=RESOLUTIONS, do_pad=True
    )


@functools.cache
def processor() -> Any:
    return LlavaNextProcessor(
        image_processor(), tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


@functools.cache
def video_processor() -> Any:
    videos = LlavaNextVideoVideoProcessor(size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS})
    return LlavaNextVideoProcessor(
        videos, image_processor(), tokenizer("<video>"), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def inputs(rows: Sequence[Row]) -> dict[str, Any]:
    texts = texts_of(rows, "<image>")
    return dict(processor()(images=drawn(rows, Picture) or None, text=texts, return_tensors="pt", padding=True))


def video_inputs(rows: Sequence[Row]) -> dict[str, Any]:
    return dict(
        video_processor()(
            images=drawn(rows, Picture) or None, videos=drawn(rows, Video) or None, text=texts_of(rows, "<image>"),
            return_tensors="pt", padding=True,
        )
    )  # fmt: skip


# (height, width): tiles with the base one, placeholders; as the processor of transformers 5.17 wrote them.
SIZES = {
    (32, 32): (3, 136), (64, 64): (5, 336), (50, 40): (5, 272), (30, 70): (4, 216), (70, 30): (4, 226),
    (20, 90): (4, 214), (90, 20): (4, 232), (96, 33): (4, 280), (33, 96): (4, 264), (61, 61): (5, 336),
    (17, 19): (3, 136), (41, 120): (4, 264), (120, 41): (4, 280), (100, 77): (5, 272), (77, 100): (5, 268),
    (13, 60): (3, 132), (60, 13): (3, 144), (48, 52): (5, 302), (127, 128): (5, 336), (35, 71): (4, 200),
    (71, 36): (5, 208), (59, 110): (5, 200),
}  # fmt: skip


def full(part: Picture | Video) -> int:
    if isinstance(part, Video):
        return 16 * part.frames
    return SIZES[part.height, part.width][1]


def short(part: Picture | Video, keep: int | float) -> int:
    if isinstance(part, Video):
        return part.frames * (keep if isinstance(keep, int) else int(keep * 16 + 0.5))
    return SIZES[part.height, part.width][0] * (keep if isinstance(keep, int) else int(keep * 64 + 0.5)) + 1


PICTURES = tuple(Picture(*size, seed) for seed, size in enumerate(SIZES))
VIDEOS = tuple(Video(frames, 40, 30 + 7 * frames, frames) for frames in (2, 1, 3, 5, 8))

CASES = [
    Case("llava_next", "LLaVA-NeXT", model, inputs, PICTURES, full, short, keep=9),
    Case(
        "llava_next_video", "LLaVA-NeXT-Video", video_model, video_inputs, PICTURES[:20], full, short, keep=9,
        videos=VIDEOS,
    ),
]  # fmt: skip
