"""Gemma 3 in the table: 16 x 16 patches pooled 4 x 4 to 16 tokens, for the picture and for each pan-and-scan crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from tests import builders
from tests.families.case import Case, Picture, Row, Video, drawn, settle, texts_of, tokenizer

SIDE, PATCH, TOKENS = 16, 4, 16
FIRST = len(builders.SPECIAL) + len(builders.BYTES)  # ids of <boi> and <eoi>
SCAN = {
    "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16, "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}  # fmt: skip


def model(attention: str = "sdpa") -> Any:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=8, num_attention_heads=4, image_size=SIDE * PATCH,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    language = Gemma3TextConfig(
        vocab_size=FIRST + 2, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=32, max_position_embeddings=2048,
        layer_types=["sliding_attention", "full_attention"], pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = Gemma3Config(
        vision_config=vision, text_config=language, mm_tokens_per_image=TOKENS, boi_token_index=FIRST,
        eoi_token_index=FIRST + 1, image_token_index=builders.IMAGE_TOKEN, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return settle(Gemma3ForConditionalGeneration._from_config(config, attn_implementation=attention))


def processor() -> Gemma3Processor:
    words = tokenizer("<boi>", "<eoi>", image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    for name, token in (("image", "<image>"), ("boi", "<boi>"), ("eoi", "<eoi>")):
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(token))
    images = Gemma3ImageProcessor(size={"height": SIDE * PATCH, "width": SIDE * PATCH})
    return Gemma3Processor(images, words, image_seq_length=TOKENS)


def inputs(rows: Sequence[Row], **settings: Any) -> dict[str, Any]:
    pictures = [drawn([row], Picture) for row in rows]
    return dict(
        processor()(
            images=pictures if any(pictures) else None, text=texts_of(rows, "<boi>"), return_tensors="pt",
            padding=True, **settings,
        )
    )  # fmt: skip


def scanned(rows: Sequence[Row]) -> dict[str, Any]:
    return inputs(rows, **SCAN) if drawn(rows, Picture) else inputs(rows)


def crops(part: Picture | Video) -> int:
    """Return how many pictures pan-and-scan makes of one, itself included, written out from its rules."""
    short, long = sorted(part[:2]) if isinstance(part, Picture) else (1, 1)
    if long / short < 1.2:
        return 1
    number = min(4, max(2, min(long // 16, math.floor(long / short + 0.5))))
    return 1 if min(short, math.ceil(long / number)) < 16 else 1 + number


def kept(keep: int | float) -> int:
    return keep if isinstance(keep, int) else max(1, int(keep * TOKENS + 0.5))


PICTURES = tuple(Picture(16 + 7 * i, 24 + 11 * (i % 7), i) for i in range(22))
EXTREME = (Picture(16, 200, 40), Picture(150, 17, 41), Picture(1, 90, 42))

CASES = [
    Case(
        name="gemma3", family="Gemma 3", model=model, inputs=inputs, pictures=PICTURES, full=lambda part: TOKENS,
        short=lambda part, keep: kept(keep), keep=4,
    ),
    Case(
        name="gemma3-pan-and-scan", family="Gemma 3", model=model, inputs=scanned, pictures=PICTURES + EXTREME,
        full=lambda part: TOKENS * crops(part), short=lambda part, keep: kept(keep) * crops(part), keep=4,
    ),
]  # fmt: skip
