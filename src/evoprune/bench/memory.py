"""How much memory a model and its inputs need, known from shapes, and how much there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..models import Family
from .inputs import Maker, Shape

WAYS = "take a smaller preset, --stages encoder, --dtype bfloat16, or fewer images, frames or prompts at a time"


def weights(model: Any, dtype: torch.dtype) -> int:
    """Return the bytes of all parameters and buffers, tied ones once."""
    unique = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.numel() for one in unique.values()) * dtype.itemsize


def activations(family: Family, maker: Maker, shape: Shape, dtype: torch.dtype, stages: str, attention: str) -> int:
    """Return about how many bytes the largest activations take: of the tower, or of the language model's prefill.

    The tower keeps all its hidden states where the family reads one in the middle; eager attention keeps its matrix.
    """
    grids, tokens = counts(family, maker, shape)
    config: Any = family.tower.config
    patches = sum(rows * columns for rows, columns in grids)
    mlp = int(getattr(config, "intermediate_size", 0) or getattr(config, "mlp_ratio", 4) * family.width)
    states = len(family.blocks) + 1 if family.name.startswith(("LLaVA", "InternVL")) else 2
    tower = patches * (states * family.width + max(2 * mlp, 4 * family.width)) * dtype.itemsize
    heads = int(getattr(config, "num_attention_heads", 0) or getattr(config, "num_heads", 16))
    if attention == "eager":
        tower += 2 * 4 * heads * sum((rows * columns) ** 2 for rows, columns in grids)
    if stages == "encoder":
        return tower
    text = family.base.config.get_text_config()
    prompt = tokens + shape.batch * maker.prompt
    keys = 2 * text.num_hidden_layers * text.hidden_size * (text.num_key_value_heads or 1) // text.num_attention_heads
    prefill = prompt * (keys + 4 * text.hidden_size + 3 * text.intermediate_size) * dtype.itemsize
    return max(tower, prefill + tokens * text.hidden_size * dtype.itemsize)


def counts(family: Family, maker: Maker, shape: Shape) -> tuple[list[tuple[int, int]], int]:
    """Return the grids of all items of a call, and its visual tokens, from one item of it that is really prepared."""
    one = Shape(None, min(2, shape.frames)) if shape.frames is not None else Shape(1)
    pixels = maker.preprocess(maker.raw(one, 0), torch.device("cpu"), torch.float32)
    factor = shape.items / one.items
    found = next((pixels[name] for name in ("image_grid_thw", "video_grid_thw") if name in pixels), None)
    if found is not None:
        grids = [(rows, columns) for frames, rows, columns in found.tolist() for _ in range(frames)]
    else:
        values = pixels["pixel_values" if "pixel_values" in pixels else "pixel_values_videos"]
        grids = [family.grid or (1, 1)] * values.shape[:-3].numel()
    times = max(1, round(len(grids) * factor))
    return (grids * times)[:times], round(maker.placeholders(one, pixels) * factor)


def free(device: torch.device) -> int | None:
    """Return the bytes that are free on `device`, None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    lines = [line for line in info.read_text().splitlines() if line.startswith("MemAvailable:")]
    return 1024 * int(lines[0].split()[1]) if lines else None


def check(name: str, needed: int, device: torch.device) -> None:
    """Raise ValueError, with both numbers, where a model needs more memory than is free."""
    there = free(device)
    if there is not None and needed > there:
        raise ValueError(
            f"{name} needs about {gigabytes(needed)} of memory on {device} and {gigabytes(there)} are free: {WAYS}"
        )


def gigabytes(size: int) -> str:
    """Return a number of bytes in words."""
    return f"{size / 2**30:.1f} GiB"
