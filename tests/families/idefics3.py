"""Idefics3 and SmolVLM in the table: tiles of 8 x 8 patches, 16 tokens each, and the whole picture beside several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from tests import builders
from tests.families.case import Case, Picture, Row, Video, drawn, settle, texts_of, tokenizer

SIDE, PATCH, TOKENS = 8, 4, 16
TILE, LONGEST = SIDE * PATCH, 3 * SIDE * PATCH
MARKS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>")
GRIDS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
WORDS = len(builders.SPECIAL) + len(builders.BYTES) + len(MARKS) + len(GRIDS)


def model(kind: str = "idefics3", attention: str = "sdpa", side: int = SIDE, scale: int = 2) -> Any:
    tower = {"idefics3": Idefics3VisionConfig, "smolvlm": SmolVLMVisionConfig}[kind]
    whole = {"idefics3": Idefics3Config, "smolvlm": SmolVLMConfig}[kind]
    built = {"idefics3": Idefics3ForConditionalGeneration, "smolvlm": SmolVLMForConditionalGeneration}[kind]
    vision = tower(
        hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4, image_size=side * PATCH,
        patch_size=PATCH,
    )  # fmt: skip
    language = LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = whole(
        vision_config=vision, text_config=language, image_token_id=builders.IMAGE_TOKEN, scale_factor=scale,
        pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return settle(built._from_config(config, attn_implementation=attention))


def processor(kind: str = "idefics3") -> Any:
    words = tokenizer(*MARKS, *GRIDS, image_token="<image>", video_token="<video>")
    sizes = {"size": {"longest_edge": LONGEST}, "max_image_size": {"longest_edge": TILE}}
    if kind == "idefics3":
        return Idefics3Processor(Idefics3ImageProcessor(**sizes), words, image_seq_len=TOKENS)
    return SmolVLMProcessor(SmolVLMImageProcessor(**sizes), words, SmolVLMVideoProcessor(**sizes), image_seq_len=TOKENS)


def inputs(rows: Sequence[Row], kind: str = "idefics3", **settings: Any) -> dict[str, Any]:
    pictures, clips = [drawn([row], Picture) for row in rows], [drawn([row], Video) for row in rows]
    if any(clips):
        settings["videos"] = clips
    if any(pictures):
        settings["images"] = pictures
    texts = texts_of(rows, "<image>")
    return dict(processor(kind)(text=texts, return_tensors="pt", padding=True, **settings))


def smol(rows: Sequence[Row]) -> dict[str, Any]:
    return inputs(rows, "smolvlm")


def tiles(part: Picture | Video) -> int:
    """Return the tiles of a picture or the frames of a video, written out from the rule of the processor.

    The longest edge becomes three tiles; the other is scaled along (to an even number, unless it is as long) and fills
    up its last tile; the whole picture follows.
    """
    if isinstance(part, Video):
        return part.frames
    short, long = sorted(part[:2])
    ratio = part.width / part.height
    scaled = int(LONGEST / ratio) if part.width >= part.height else int(LONGEST * ratio)
    scaled = max(1, scaled + scaled % 2)
    again = LONGEST / (LONGEST / scaled) if part.width >= part.height else LONGEST * (scaled / LONGEST)
    return 3 * math.ceil(int(again) / TILE) + 1 if short < long else 10


def kept(keep: int | float) -> int:
    return keep if isinstance(keep, int) else max(1, int(keep * TOKENS + 0.5))


def _case(kind: str, family: str, **settings: Any) -> Case:
    return Case(
        name=kind, family=family, model=lambda: model(kind), inputs=lambda rows: inputs(rows, kind),
        pictures=PICTURES + EXTREME, full=lambda part: TOKENS * tiles(part),
        short=lambda part, keep: kept(keep) * tiles(part), keep=4, **settings,
    )  # fmt: skip


PICTURES = tuple(Picture(20 + 6 * i, 20 + 13 * (i % 8), i) for i in range(22))
EXTREME = (Picture(9, 190, 40), Picture(150, 5, 41), Picture(1, 1, 42), Picture(64, 64, 43))

CLIPS = (Video(1, 24, 40, 1), Video(3, 24, 40, 1), Video(4, 32, 32, 2), Video(7, 40, 16, 3))

CASES = [_case("idefics3", "Idefics3"), _case("smolvlm", "SmolVLM", videos=CLIPS, mixes=False)]
