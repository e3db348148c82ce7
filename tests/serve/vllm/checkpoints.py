"""Checkpoints for the engines: the embedded models, and tiny random ones whose heads a CPU kernel of vLLM takes."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests import builders
from tests.families import llava_next, llava_onevision
from tests.families.case import settle

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}  # two heads of 32
TEXT = {**WIDE, "num_hidden_layers": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip


def llava_model() -> Any:
    """A LLaVA-1.5 of 64 patches."""
    size = builders.SIDE * builders.PATCH
    vision = CLIPVisionConfig(**WIDE, num_hidden_layers=6, image_size=size, patch_size=builders.PATCH)
    text = LlamaConfig(**TEXT, vocab_size=len(builders.SPECIAL) + len(builders.BYTES))
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=builders.IMAGE_TOKEN, image_seq_length=builders.SIDE**2
    )
    torch.manual_seed(0)
    return settle(LlavaForConditionalGeneration(config))


def next_model() -> Any:
    """A LLaVA-NeXT of up to five tiles of 64 patches."""
    side = llava_next.PIXELS
    vision = CLIPVisionConfig(**WIDE, num_hidden_layers=6, image_size=side, patch_size=llava_next.PATCH)
    text = LlamaConfig(**TEXT, vocab_size=llava_next.VIDEO_ID + 1)
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_grid_pinpoints=llava_next.RESOLUTIONS,
        image_token_index=llava_next.IMAGE_ID,
    )  # fmt: skip
    torch.manual_seed(0)
    return settle(LlavaNextForConditionalGeneration(config))


def onevision_model(limit: str = llava_onevision.LIMIT) -> Any:
    """A LLaVA-OneVision of up to ten tiles of 49 patches, which shrinks what exceeds two tiles, or `limit`."""
    side = llava_onevision.PIXELS
    vision = SiglipVisionConfig(
        **WIDE, num_hidden_layers=6, image_size=side, patch_size=llava_onevision.PATCH, vision_use_head=False
    )
    text = Qwen2Config(**TEXT, vocab_size=llava_onevision.VIDEO_ID + 1)
    torch.manual_seed(0)
    return settle(
        LlavaOnevisionForConditionalGeneration(
            llava_onevision.config(vision_config=vision, text_config=text, vision_aspect_ratio=limit)
        )
    )


def nine() -> Any:
    """Return the processor of a LLaVA-OneVision whose limit is the one that vLLM takes for granted."""
    processor = copy.copy(llava_onevision.processor())
    processor.vision_aspect_ratio = "anyres_max_9"
    return processor


KINDS = {
    "llava": (llava_model, builders.processor),
    "next": (next_model, llava_next.processor),
    "onevision": (onevision_model, llava_onevision.processor),
    "nine": (functools.partial(onevision_model, "anyres_max_9"), nine),
}


@functools.cache
def random(kind: str) -> tuple[str, Any, Any]:
    """Return folder, model and processor of a tiny random checkpoint; saved once a process."""
    build, processor = KINDS[kind]
    folder = Path(tempfile.mkdtemp(prefix=f"evoprune-{kind}-"))
    model, reads = build(), processor()
    model.save_pretrained(folder)
    reads.save_pretrained(folder)
    return str(folder), model, reads


@functools.cache
def embedded(kind: str) -> tuple[str, Any, Any]:
    """Return folder, model and processor of the embedded image or video model."""
    from evoprune import tiny
    from evoprune.tiny import video

    package = video if kind == "video" else tiny
    return str(package.folder()), *package.load()


def ready() -> None:
    """Build every model: after vLLM's Transformers backend has changed their classes, only its engines can."""
    for kind in ("image", "video"):
        embedded(kind)
    for kind in KINDS:
        random(kind)
