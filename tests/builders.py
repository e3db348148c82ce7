"""A tiny LLaVA-1.5 with random weights and its processor, built in process: no files, no network."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
IMAGE_TOKEN = SPECIAL.index("<image>")
SIDE, PATCH = 8, 4  # 64 patches
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %} {% endfor %}{% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a fast tokenizer with one token a byte and a few special ones."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *BYTES])}
    raw = Tokenizer(models.BPE(vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<image>"], padding_side="left", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    return fast


def config(strategy: str = "default", feature_layer: Any = -2, layers: int = 6, **text: Any) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        image_size=SIDE * PATCH, patch_size=PATCH, projection_dim=16,
    )  # fmt: skip
    language = LlamaConfig(
        vocab_size=len(SPECIAL) + len(BYTES), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **text,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=language, image_token_id=IMAGE_TOKEN, vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy, image_seq_length=SIDE**2 + (strategy == "full"),
    )  # fmt: skip


def model(seed: int = 0, attention: str = "sdpa", **settings: Any) -> LlavaForConditionalGeneration:
    """Return the model in float32 and eval mode; weights are large enough for answers to differ by picture."""
    torch.manual_seed(seed)
    built = LlavaForConditionalGeneration._from_config(config(**settings), attn_implementation=attention)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.15 if "position" not in name else 0.1)
        # A random model would answer with placeholders and half characters: let only letters score above 0.
        letters = [len(SPECIAL) + i for i, byte in enumerate(BYTES) if byte.isascii() and byte.isalpha()]
        silent = torch.ones(built.lm_head.weight.shape[0], dtype=torch.bool)
        silent[letters] = False
        built.lm_head.weight[silent] = 0.0
    built.generation_config.eos_token_id = None  # every answer has the length asked for
    built.generation_config.pad_token_id = 0
    return built.eval()


def processor(strategy: str = "default") -> LlavaProcessor:
    size = SIDE * PATCH
    images = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer(), patch_size=PATCH, vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip


def picture(seed: int = 0) -> Any:
    import numpy
    from PIL import Image

    size = SIDE * PATCH
    values = numpy.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=numpy.uint8)
    return Image.fromarray(values)


def inputs(texts: list[str], seeds: list[int], strategy: str = "default") -> dict[str, torch.Tensor]:
    """Return the processor's output for `texts` with `<image>` and one picture for each seed."""
    pictures = [picture(seed) for seed in seeds] or None
    return dict(processor(strategy)(images=pictures, text=texts, return_tensors="pt", padding=True))
