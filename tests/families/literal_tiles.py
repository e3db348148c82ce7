"""Pruned towers and prompts of tiled families written down literally: loops over layers, no hooks, no shim."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evoprune.pruners import LayerView


def tower(model: Any, pixels: Tensor, merges: list[int] | tuple[int, ...], pruner: Any, prefix: int) -> Tensor:
    """Return what leaves layer ``len(merges)`` - 1 of a CLIP or SigLIP tower, prefix off: (items, K, C)."""
    vision = model.model.vision_tower
    hidden = vision.embeddings(pixels)
    if prefix:
        hidden = vision.pre_layrnorm(hidden)
    sizes = torch.ones(hidden.shape[0], hidden.shape[1] - prefix)
    for block, count in zip(vision.encoder.layers, merges, strict=False):
        attention, x = block.self_attn, block.layer_norm1(hidden)
        q, k, v = (
            part(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.transpose(2, 3) * attention.head_dim**-0.5).softmax(-1)
        hidden = hidden + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if count:
            patches = hidden[:, prefix:]
            view = LayerView(patches, sizes, weights.mean(1).mean(1)[:, prefix:], None, None)
            patches, sizes = pruner.merge(patches, sizes, pruner.match(view, count))
            hidden = torch.cat((hidden[:, :prefix], patches), dim=1)
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
    return hidden[:, prefix:]


def logits(model: Any, ids: Tensor, features: dict[int, list[Tensor]]) -> Tensor:
    """Return the last logits of one unpadded row (L,): each run of a placeholder id becomes its next features."""
    pieces, column, left = [], 0, {placeholder: list(rows) for placeholder, rows in features.items()}
    while column < len(ids):
        token = int(ids[column])
        if token not in left:
            pieces.append(model.get_input_embeddings()(ids[column : column + 1]))
            column += 1
            continue
        pieces.append(left[token].pop(0))
        while column < len(ids) and int(ids[column]) == token:
            column += 1
    assert not any(left.values())
    embeds = torch.cat(pieces)[None]
    out = model.model.language_model(inputs_embeds=embeds, use_cache=False)
    return model.lm_head(out.last_hidden_state)[0, -1]
