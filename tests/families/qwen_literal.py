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
        if pruner.proportional_attention:
            hidden = hidden + proportional(block.attn, normed, lengths.tolist(), cos, sin, heads, sizes)
        else:
            hidden = hidden + block.attn(normed, cu_seqlens=cu.int(), position_embeddings=(cos, sin))
        if count:
            q, k, _ = rotated(block.attn, normed, cos, sin, heads)
            logits = torch.einsum("qhd,khd->hqk", q, k) * block.attn.head_dim**-0.5
            if pruner.proportional_attention:
                logits = logits + sizes.log().repeat_interleave(UNIT)
            source, target = pairs(pruner, hidden, sizes, logits.softmax(-1).mean((0, 1)), k.mean(1), count)
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


def rotated(attention: Any, normed: Tensor, cos: Tensor, sin: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys (both rotated) and values, (T, heads, D) each."""
    q, k, v = attention.qkv(normed).reshape(len(normed), 3, heads, -1).unbind(1)

    def turned(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos[:, None] + torch.cat((-x[..., half:], x[..., :half]), -1) * sin[:, None]

    return turned(q), turned(k), v


def proportional(
    attention: Any, normed: Tensor, lengths: list[int], cos: Tensor, sin: Tensor, heads: int, sizes: Tensor
) -> Tensor:
    """Return the attention's output where each key counts as often as patches of its place have merged into it."""
    q, k, v = rotated(attention, normed, cos, sin, heads)
    weight, parts = sizes.repeat_interleave(UNIT), []
    for one in torch.arange(len(normed)).split(lengths):
        shares = (torch.einsum("qhd,khd->hqk", q[one], k[one]) * attention.head_dim**-0.5).exp() * weight[one]
        parts.append(torch.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdim=True), v[one]).flatten(1))
    return attention.proj(torch.cat(parts))


def pairs(
    pruner: Any, hidden: Tensor, sizes: Tensor, received: Tensor, keys: Tensor, count: int
) -> tuple[list[int], list[int]]:
    def unit(values: Tensor) -> Tensor:
        each = values.reshape(len(sizes), UNIT, -1)
        return (each / each.norm(dim=-1, keepdim=True)).mean(1)[None]

    view = LayerView(unit(hidden), sizes[None], received.view(1, -1, UNIT).mean(2), unit(keys), None)
    matching = pruner.match(view, count)
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
