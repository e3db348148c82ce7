"""The same computation written down literally: loops over layers and rows, no hooks, no padding, no shim."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evoprune.pruners import LayerView
from tests import builders


def tower(model: Any, pixels: Tensor, pruner: Any, layers: int) -> Tensor:
    """Return what leaves layer `layers` - 1 of the CLIP tower, merging as `pruner` says: (I, 1 + K, C)."""
    vision = model.model.vision_tower
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    merges = pruner.merges(hidden.shape[1] - 1, layers)
    sizes, merged_before = torch.ones(hidden.shape[0], hidden.shape[1] - 1), False
    for block, count in zip(vision.encoder.layers, merges, strict=False):
        attention, x = block.self_attn, block.layer_norm1(hidden)
        q, k, v = (
            part(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = q @ k.transpose(2, 3) * attention.head_dim**-0.5
        if pruner.proportional_attention and merged_before:
            logits = logits + torch.cat((torch.zeros(len(sizes), 1), sizes.log()), dim=1)[:, None, None]
        weights = logits.softmax(-1)
        hidden = hidden + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if count:
            view = LayerView(hidden[:, 1:], sizes, weights.mean(1).mean(1)[:, 1:], k.mean(1)[:, 1:], None)
            patches, sizes = pruner.merge(hidden[:, 1:], sizes, matching := pruner.match(view, count))
            assert matching.source.shape[1] == count
            hidden, merged_before = torch.cat((hidden[:, :1], patches), 1), True
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
    return hidden


def logits(model: Any, ids: Tensor, features: list[Tensor], full: int, original: Tensor | None = None) -> Tensor:
    """Return the logits of one unpadded row with long `ids` (L,) and its images' projected features.

    `original` (I, K) gives the raster index of each survivor: positions are then the original ones.
    """
    pieces, places, column, image = [], [], 0, 0
    while column < len(ids):
        if int(ids[column]) == builders.IMAGE_TOKEN:
            pieces.append(features[image])
            kept = torch.arange(len(features[image])) if original is None else original[image]
            places.append(column + kept)
            column, image = column + full, image + 1
        else:
            pieces.append(model.get_input_embeddings()(ids[column : column + 1]))
            places.append(torch.tensor([column]))
            column += 1
    assert image == len(features)
    embeds = torch.cat(pieces)[None]
    positions = torch.cat(places)[None] if original is not None else torch.arange(embeds.shape[1])[None]
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    out = model.model.language_model(inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False)
    return model.lm_head(out.last_hidden_state)[0]


def greedy(model: Any, ids: Tensor, features: list[Tensor], full: int, new: int, original: Any = None) -> Tensor:
    """Return `new` greedy tokens, each from a fresh forward."""
    for _ in range(new):
        best = logits(model, ids, features, full, original)[-1].argmax()
        ids = torch.cat((ids, best[None]))
    return ids[-new:]
