"""InternVL in the table: tiles of 8 x 8 patches, 16 tokens each, with a thumbnail beside several; frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)

from tests import builders
from tests.families.case import Case, Picture, Row, Video, drawn, settle, texts_of, tokenizer

SIDE, PATCH, TOKENS = 8, 4, 16
WORDS = len(builders.SPECIAL) + len(builders.BYTES) + 3


def model(attention: str = "sdpa", **settings: Any) -> Any:
    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
        image_size=(SIDE * PATCH, SIDE * PATCH), patch_size=(PATCH, PATCH), layer_scale_init_value=0.7,
        use_qk_norm=True,
    )  # fmt: skip
    language = Qwen2Config(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=language, image_token_id=builders.IMAGE_TOKEN, image_seq_length=TOKENS,
        tie_word_embeddings=False, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    return settle(InternVLForConditionalGeneration._from_config(config, attn_implementation=attention))


def processor() -> InternVLProcessor:
    words = tokenizer(
        "<img>", "</img>", "<video>", start_image_token="<img>", end_image_token="</img>",
        context_image_token="<image>", video_token="<video>",
    )  # fmt: skip
    for name in ("start_image", "end_image", "context_image", "video"):
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(getattr(words, f"{name}_token")))
    size = {"height": SIDE * PATCH, "width": SIDE * PATCH}
    images = GotOcr2ImageProcessor(size=size, max_patches=6)
    return InternVLProcessor(images, words, InternVLVideoProcessor(size=size), image_seq_length=TOKENS)


def inputs(rows: Sequence[Row]) -> dict[str, Any]:
    pictures, clips = drawn(rows, Picture), drawn(rows, Video)
    return dict(
        processor()(
            images=pictures or None, videos=clips or None, text=texts_of(rows, "<image>"), return_tensors="pt",
            padding=True,
        )
    )  # fmt: skip


def tiles(part: Picture | Video) -> int:
    """Return the tiles of a picture, or the frames of a video, written out from the rule of the processor.

    Of all grids of up to six tiles the one nearest in aspect ratio, among equals the larger where the picture fills
    half of it; a thumbnail comes beside several tiles.
    """
    if isinstance(part, Video):
        return part.frames
    best, nearest = 1, float("inf")
    grids = [(w, h) for w in range(1, 7) for h in range(1, 7) if w * h <= 6]
    for width, height in sorted(grids, key=lambda one: one[0] * one[1]):
        far = abs(part.width / part.height - width / height)
        room = 0.5 * (SIDE * PATCH) ** 2 * width * height
        if far < nearest or (far == nearest and part.width * part.height > room):
            best, nearest = width * height, far
    return best + (best > 1)


def kept(keep: int | float) -> int:
    return keep if isinstance(keep, int) else max(1, int(keep * TOKENS + 0.5))


PICTURES = tuple(Picture(20 + 6 * i, 20 + 13 * (i % 8), i) for i in range(22))
EXTREME = (Picture(9, 190, 40), Picture(150, 5, 41), Picture(1, 1, 42))
VIDEOS = (Video(2, 20, 30, 50), Video(1, 32, 32, 51), Video(5, 16, 48, 52))

CASES = [
    Case(
        name="internvl", family="InternVL", model=model, inputs=inputs, pictures=PICTURES + EXTREME, videos=VIDEOS,
        full=lambda part: TOKENS * tiles(part), short=lambda part, keep: kept(keep) * tiles(part), keep=4,
    ),
]  # fmt: skip
