"""The embedded model's architecture, tokenizer and processor: plain LLaVA classes with small sizes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .scenes import PATCH, SIDE

WIDTH = 96  # of the tower and of the language model; three heads of 32
DEPTH = 12  # tower layers, of which vision_feature_layer = -2 makes the first eleven effective
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ASSISTANT: ' }}{% else %}"
    "{% if not loop.first %}{{ ' ' }}{% endif %}{{ 'USER: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<image>\\n' }}{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def tokenizer(corpus: Iterable[str], placeholders: tuple[str, ...] = ("image",)) -> Any:
    """A byte-level BPE tokenizer in which every word of `corpus` is one token and any other text still round-trips.

    For each name in `placeholders` there is a special token, ``<image>`` for "image".
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *(f"<{name}>" for name in placeholders)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={f"{name}_token": f"<{name}>" for name in placeholders},
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def processor(words: Any) -> Any:
    """The LLaVA processor around tokenizer `words`: pictures are scaled to 112 x 112, nothing is cropped."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    pictures = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        pictures,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def model(words: Any, depth: int = DEPTH) -> Any:
    """A freshly initialised model for tokenizer `words`, with a tower of `depth` layers, in float32."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=depth,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
        hidden_act="gelu_pytorch_tanh",
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    network = LlavaForConditionalGeneration(config)
    for layer in network.model.language_model.layers:
        match_queries_and_keys(layer.self_attn)
    return network


def match_queries_and_keys(attention: Any) -> None:
    """Begin with equal queries and keys: a word then looks at what resembles it, such as patches of its colour."""
    import torch

    with torch.no_grad():
        attention.q_proj.weight.mul_(3)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def save(network: Any, pictures_and_words: Any, folder: Path) -> None:
    """Write model (float16) and processor to `folder` so that the Auto classes load them."""
    import copy

    import torch

    copy.deepcopy(network).to(torch.float16).save_pretrained(folder)
    pictures_and_words.save_pretrained(folder)
