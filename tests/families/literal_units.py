"""Towers with merging, and short prompts, written down literally: loops, no hooks, from the model's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.pruners import LayerView
from tests import builders


def siglip_attention(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the block's attention adds to the residual, and its weights (B, H, T, T)."""
    one = block.self_attn
    heads = one.embed_dim // one.head_dim
    x = block.layer_norm1(x)
    q, k, v = (f(x).unflatten(2, (heads, -1)).transpose(1, 2) for f in (one.q_proj, one.k_proj, one.v_proj))
    weights = (q @ k.transpose(2, 3) * one.head_dim**-0.5).softmax(-1)
    return one.out_proj((weights @ v).transpose(1, 2).flatten(2)), weights


def siglip_mlp(block: Any, x: Tensor) -> Tensor:
    return block.mlp(block.layer_norm2(x))


def merged(
    hidden: Tensor, blocks: Sequence[Any], attention: Any, mlp: Any, pruner: Any, merges: Sequence[int],
    grid: tuple[int, int], side: int, prefix: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return what leaves the blocks (B, prefix + K * side^2, C), in units, and where each unit stood (B, K)."""
    rows, columns = grid
    squares = [
        [(r + i) * columns + c + j for i in range(side) for j in range(side)]
        for r in range(0, rows, side)
        for c in range(0, columns, side)
    ]
    order, members = [patch for square in squares for patch in square], side * side
    cls, patches = hidden[:, :prefix], hidden[:, prefix:][:, order]
    sizes = torch.ones(len(hidden), len(squares))
    place = torch.arange(len(squares)).expand(len(hidden), -1)
    for block, count in zip(blocks, merges, strict=True):
        hidden = torch.cat((cls, patches), 1)
        update, weights = attention(block, hidden)
        hidden = hidden + update
        cls, patches = hidden[:, :prefix], hidden[:, prefix:]
        if count:
            units = patches.unflatten(1, (-1, members))
            received = weights.mean(1).mean(1)[:, prefix:].unflatten(1, (-1, members)).mean(-1)
            vectors = units[:, :, 0] if members == 1 else nn.functional.normalize(units, dim=-1).mean(2)
            matching = pruner.match(LayerView(vectors, sizes, received, None, None), count)
            merged_units, sizes = pruner.merge(units.flatten(2), sizes, matching)
            patches = merged_units.unflatten(2, (members, -1)).flatten(1, 2)
            place = place.gather(1, matching.kept)
        hidden = torch.cat((cls, patches), 1)
        hidden = hidden + mlp(block, hidden)
        cls, patches = hidden[:, :prefix], hidden[:, prefix:]
    return hidden, place


def short_prompt(model: Any, ids: Tensor, features: Sequence[Tensor], full: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the embeddings (1, S, C) of one long row with features in place of each `full` placeholders.

    Also the long column of each short one's first placeholder or text (S,), and which image it belongs to, -1 for text.
    """
    pieces, places, image, column, which = [], [], [], 0, 0
    while column < len(ids):
        if int(ids[column]) == builders.IMAGE_TOKEN:
            pieces.append(features[which])
            places += [column] * len(features[which])
            image += [which] * len(features[which])
            column, which = column + full, which + 1
        else:
            pieces.append(model.get_input_embeddings()(ids[column : column + 1]))
            places.append(column)
            image.append(-1)
            column += 1
    assert which == len(features)
    return torch.cat(pieces)[None], torch.tensor(places), torch.tensor(image)


def logits(model: Any, decoder: Any, ids: Tensor, features: Sequence[Tensor], full: int, offsets: Any = None) -> Tensor:
    """Return the logits (S, V) of one unpadded long row; `offsets` of its images' tokens give original positions."""
    embeds, places, image = short_prompt(model, ids, features, full)
    positions = torch.arange(len(places))
    if offsets is not None:
        positions = places.clone()
        for which, offset in enumerate(offsets):
            positions[image == which] += offset
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    out = decoder(inputs_embeds=embeds, position_ids=positions[None], attention_mask=mask, use_cache=False)
    return model.lm_head(out.last_hidden_state)[0]
