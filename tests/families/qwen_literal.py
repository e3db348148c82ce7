"""The pruned tower of Qwen2-VL, Qwen2.5-VL and Qwen3-VL written down literally: one picture at a time, no hooks left.

Each block is computed from upstream's own parts; what enters the blocks is read off an unpruned run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evoprune.pruners import LayerView

UNIT = 4  # patches


def entering(model: Any, pixels: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return what upstream gives its blocks: hidden states, cos, sin, and the borders at each block."""
    tower, seen = model.model.visual, []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((args[0], *kwargs["position_embeddings"], kwargs["cu_seqlens"]))

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in tower.blocks]
    try:
        tower(pixels, grid_thw=grid)
    finally:
        for hook in hooks:
            hook.remove()
    return *seen[0][:3], [one[3] for one in seen]


def raster(tower: Any, grid: Tensor) -> Tensor:
    """Return the raster index of each unit of one frame, in the order in which the tower has them."""
    from transformers.vision_utils import get_vision_window_index

    if not hasattr(tower, "fullatt_block_indexes"):
        return torch.arange(int(grid.prod()) // UNIT)
    return get_vision_window_index(
        grid, spatial_merge_size=2, window_size=tower.window_size, patch_size=tower.patch_size
    )[0]


def frame(model: Any, pixels: Tensor, rows: int, columns: int, pruner: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return the merger's tokens (K, C), deepstack tokens, and raster indices of one frame's survivors."""
    tower, grid = model.model.visual, torch.tensor([[1, rows, columns]])
    hidden, cos, sin, borders = entering(model, pixels, grid)
    units, depth = len(hidden) // UNIT, len(tower.blocks)
    allowed = getattr(tower, "fullatt_block_indexes", range(depth))
    windows = [torch.searchsorted(one[1:].long(), torch.arange(len(hidden)), right=True) for one in borders]
    merges = pruner.merges(units, depth, keep=pruner.count(units), allowed=allowed)
    place, sizes, deep = raster(tower, grid), torch.ones(units), []
    heads = tower.blocks[0].attn.num_heads
    for layer, (block, count) in enumerate(zip(tower.blocks, merges, strict=True)):
        lengths = windows[layer].unique_consecutive(return_counts=True)[1]
        cu = torch.cat((torch.zeros(1, dtype=torch.long), lengths.cumsum(0)))
        normed = block.norm1(hidden)
        hidden = hidden + block.attn(normed, cu_seqlens=cu.int(), position_embeddings=(cos, sin))
        if count:
            received = attention_received(block.attn, normed, cos, sin, heads)
            source, target = pairs(pruner, hidden, sizes, received, count)
            kept = torch.tensor([i for i in range(len(sizes)) if i not in source])
            values = hidden.view(len(sizes), -1)
            hidden = merged(values, sizes, source, target)[kept].reshape(len(kept) * UNIT, -1)
            deep = [merged(one, sizes, source, target)[kept] for one in deep]
            sizes = summed(sizes, source, target)[kept]
            patches = (kept[:, None] * UNIT + torch.arange(UNIT)).flatten()
            cos, sin, place = cos[patches], sin[patches], place[kept]
            windows = [one[patches] for one in windows]
        hidden = hidden + block.mlp(block.norm2(hidden))
        if layer in getattr(tower, "deepstack_visual_indexes", ()):
            number = list(tower.deepstack_visual_indexes).index(layer)
            deep.append(tower.deepstack_merger_list[number](hidden))
    order = place.argsort()
    return tower.merger(hidden)[order], [one[order] for one in deep], place[order]


def attention_received(attention: Any, normed: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Return for each unit the mean over patches, heads and queries of the attention that it receives."""
    q, k, _ = attention.qkv(normed).reshape(len(normed), 3, heads, -1).unbind(1)

    def rotated(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos[:, None] + torch.cat((-x[..., half:], x[..., :half]), -1) * sin[:, None]

    logits = torch.einsum("qhd,khd->hqk", rotated(q), rotated(k)) * attention.head_dim**-0.5
    return logits.softmax(-1).mean((0, 1)).view(-1, UNIT).mean(1)


def pairs(pruner: Any, hidden: Tensor, sizes: Tensor, received: Tensor, count: int) -> tuple[list[int], list[int]]:
    each = hidden.view(len(sizes), UNIT, -1)
    compared = (each / each.norm(dim=-1, keepdim=True)).mean(1)
    matching = pruner.match(LayerView(compared[None], sizes[None], received[None], None, None), count)
    return matching.source[0].tolist(), matching.target[0].tolist()


def merged(values: Tensor, sizes: Tensor, source: list[int], target: list[int]) -> Tensor:
    total, weight = values * sizes[:, None], sizes.clone()
    for one, other in zip(source, target, strict=True):
        total[other] = total[other] + values[one] * sizes[one]
        weight[other] = weight[other] + sizes[one]
    return total / weight[:, None]


def summed(sizes: Tensor, source: list[int], target: list[int]) -> Tensor:
    total = sizes.clone()
    for one, other in zip(source, target, strict=True):
        total[other] += sizes[one]
    return total
