"""Tiny random CLIP and SigLIP models with a tokenizer, built in process, to stand beside the tiny LLaVA."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from tests.builders import BYTES, PATCH, SIDE

LONGEST = 12  # tokens of a text, with its marks
CLIP_WORDS = [*BYTES, "<start>", "<end>"]
SIGLIP_WORDS = ["<pad>", "<end>", *BYTES]


def tokenizer(words: list[str], template: str, pad: str) -> PreTrainedTokenizerFast:
    """Return one token a byte, and marks around a text by `template`."""
    ids = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.BPE(ids, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    marks = [(one, ids[one]) for one in template.split() if one in ids]
    raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=pad, eos_token="<end>")


def _built(kind: Any, config: Any, words: PreTrainedTokenizerFast) -> Any:
    torch.manual_seed(7)
    model = kind(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.8)  # large enough that the question matters
    model.tokenizer = words
    return model


def clip(width: int = 32, end: int = CLIP_WORDS.index("<end>")) -> CLIPModel:
    """Return a CLIP whose vision side is `width` wide and whose config says that texts end with `end`."""
    text = {"vocab_size": len(CLIP_WORDS), "eos_token_id": end, "bos_token_id": len(CLIP_WORDS) - 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=_sides(24) | text, vision_config=_vision(width), projection_dim=10)
    return _built(CLIPModel, config, tokenizer(CLIP_WORDS, "<start> $A <end>", "<end>"))


def siglip(width: int = 32) -> SiglipModel:
    text = {"vocab_size": len(SIGLIP_WORDS), "eos_token_id": 1, "pad_token_id": 0, "projection_size": width}
    config = SiglipConfig(text_config=_sides(width) | text, vision_config=_vision(width))
    return _built(SiglipModel, config, tokenizer(SIGLIP_WORDS, "$A <end>", "<pad>"))


def _sides(width: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": LONGEST,
    }  # fmt: skip


def _vision(width: int) -> dict[str, Any]:
    sides = _sides(width)
    del sides["max_position_embeddings"]
    return sides | {"image_size": SIDE * PATCH, "patch_size": PATCH}
