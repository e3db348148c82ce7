"""The video model's architecture and processor: plain LLaVA-OneVision classes with small sizes, and its warm start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..build import TEMPLATE as IMAGE_TEMPLATE
from ..build import match_queries_and_keys
from .clips import PATCH, SIDE

WIDTH = 96  # of the tower and of the language model; three heads of 32
DEPTH = 12  # tower layers, all of them read
NEW_BLOCKS = 2  # decoder layers before those of the image model: room to relate frames to each other
BLOCKS = NEW_BLOCKS + 4
SHARPER = 1.6  # times the queries and keys of the new layers: what looks alike in other frames stands out
_IMAGE = "{% if item['type'] == 'image' %}{{ '<image>\\n' }}"
TEMPLATE = IMAGE_TEMPLATE.replace(_IMAGE, _IMAGE + "{% elif item['type'] == 'video' %}{{ '<video>\\n' }}")


def processor(words: Any) -> Any:
    """The LLaVA-OneVision processor around tokenizer `words`: frames and pictures are scaled to 80 x 80 px."""
    from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    look: dict[str, Any] = {
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(**look, image_grid_pinpoints=[[SIDE, SIDE]]),
        words,
        LlavaOnevisionVideoProcessor(**look),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def model(words: Any, depth: int = DEPTH, blocks: int = BLOCKS) -> Any:
    """A freshly initialised model for tokenizer `words` with `depth` tower and `blocks` decoder layers, in float32."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=depth,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=blocks,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIDE, SIDE]],
        tie_word_embeddings=False,
    )
    network = LlavaOnevisionForConditionalGeneration(config)
    for layer in network.model.language_model.layers:
        match_queries_and_keys(layer.self_attn)
    return network


def _silence(layer: nn.Module, *names: str) -> None:
    """Let a layer begin as the identity: the linear maps that write into the residual stream become zero."""
    for name in names:
        linear = layer.get_submodule(name)
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)


def _tower(new: Any, old: Any) -> None:
    """Tower from CLIP's: no CLS, and the norm before the layers folded into the embedding by its mean size.

    The middle of the position grid is taken as it is. Its eleven read layers come first; the twelfth begins as the
    identity.
    """
    norm, side, start = old.pre_layrnorm, SIDE // PATCH, 2
    kernel = old.embeddings.patch_embedding.weight
    places = old.embeddings.position_embedding.weight[1:]
    grid = int(len(places) ** 0.5)
    places = places.view(grid, grid, -1)[start : start + side, start : start + side].flatten(0, 1)
    size = _mean_size(kernel, places)
    new.embeddings.patch_embedding.weight.copy_(
        norm.weight[:, None, None, None] / size * (kernel - kernel.mean(0, keepdim=True))
    )
    new.embeddings.patch_embedding.bias.zero_()
    new.embeddings.position_embedding.weight.copy_(
        norm.weight / size * (places - places.mean(1, keepdim=True)) + norm.bias
    )
    for number, layer in enumerate(new.encoder.layers):
        layer.load_state_dict(old.encoder.layers[min(number, len(old.encoder.layers) - 2)].state_dict())
    _silence(new.encoder.layers[-1], "self_attn.out_proj", "mlp.fc2")


def _mean_size(kernel: Tensor, places: Tensor) -> Tensor:
    """Standard deviation over channels of embedded patches, averaged over training pictures."""
    from .. import batches, scenes

    pictures = batches.picture_tensor([scenes.scene("train", 98, index) for index in range(16)])
    seen = nn.functional.conv2d(pictures[..., :SIDE, :SIDE], kernel, stride=PATCH).flatten(2).mT + places
    return seen.std(-1).mean()


def _language(new: Any, old: Any) -> None:
    """Decoder layers of the image model behind `NEW_BLOCKS` that begin as the identity."""
    for number, layer in enumerate(new.layers):
        if number >= NEW_BLOCKS:
            layer.load_state_dict(old.layers[number - NEW_BLOCKS].state_dict(), strict=False)
        else:
            _silence(layer, "self_attn.o_proj", "mlp.down_proj")
            layer.self_attn.q_proj.weight.mul_(SHARPER)
            layer.self_attn.k_proj.weight.mul_(SHARPER)
    new.norm.load_state_dict(old.norm.state_dict())


@torch.no_grad()
def warm_start(network: Any, words: Any) -> None:
    """Copy what fits from the shipped image model: tower, projector, decoder, and rows of words that both know."""
    from .. import load

    image, pictures_and_words = load()
    _tower(network.model.vision_tower, image.model.vision_tower)
    network.model.multi_modal_projector.load_state_dict(image.model.multi_modal_projector.state_dict())
    _language(network.model.language_model, image.model.language_model)
    known = pictures_and_words.tokenizer.get_vocab()
    for table, source in (
        (network.get_input_embeddings().weight, image.get_input_embeddings().weight),
        (network.lm_head.weight, image.lm_head.weight),
    ):
        for word, row in words.get_vocab().items():
            if word in known:
                table[row] = source[known[word]]
