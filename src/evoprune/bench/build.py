"""A published architecture with random weights, seeded and cheap to make: what is timed does not depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .presets import Preset, Values

BLOCK = 1_048_583  # random numbers that are repeated; a prime, so that no two rows of a weight are the same


def skeleton(preset: Preset, stages: str = "all", attention: str = "sdpa") -> Any:
    """Return the model without memory, on the meta device: shapes, counts and parameters.

    Raises
    ------
    ValueError
        `attention` is no backend that this model can be loaded with here.
    """
    return _made(preset, stages, torch.float32, "meta", attention)


def build(
    preset: Preset,
    stages: str = "all",
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    seed: int = 0,
) -> Any:
    """Return the model in eval mode, made where it is to run.

    Weights keep activations finite and tokens different: linear layers have the variance that keeps that of their
    inputs, norms are 1, biases 0.

    Raises
    ------
    ValueError
        `attention` is no backend that this model can be loaded with.
    """
    model = _made(preset, stages, dtype, device, attention)
    fill(model, seed)
    model.generation_config.eos_token_id = None  # every answer has the length asked for
    model.generation_config.pad_token_id = 0
    return model.eval()


def _made(preset: Preset, stages: str, dtype: torch.dtype, device: torch.device | str, attention: str) -> Any:
    try:
        with _plain(), torch.device(device):
            model = preset.model_class()._from_config(preset.config(stages), dtype=dtype, attn_implementation=attention)
    except (ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"attention {attention!r} cannot be used here ({first}): choose sdpa or eager") from error
    model.tie_weights()
    return model.eval()


@contextmanager
def _plain() -> Iterator[None]:
    """Build without the weights' own initialisation, which takes minutes for seven billion of them."""
    import transformers
    from transformers.initialization import no_init_weights

    # Its remarks about token ids are about words that are never used.
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with no_init_weights():
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Fill all parameters from one block of normal numbers, drawn on the CPU for all devices alike."""
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed))
    placed: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
    offset = 0
    for name, weight in model.named_parameters():
        key = weight.device, weight.dtype
        if key not in placed:
            placed[key] = block.to(*key)
        if weight.ndim > 1 or not name.endswith(("weight", "bias")):
            offset = (offset + 7919) % BLOCK
            _repeat(weight, placed[key].roll(-offset), _deviation(name, weight))
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)


def _deviation(name: str, weight: torch.Tensor) -> float:
    if weight.ndim == 1 or ("embed" in name and "patch" not in name):
        return 0.02 if "embed_tokens" in name or weight.ndim == 1 else 0.1
    return float(weight[0].numel()) ** -0.5


def _repeat(weight: torch.Tensor, block: torch.Tensor, deviation: float) -> None:
    flat = weight.view(-1)
    for start in range(0, flat.numel(), BLOCK):
        part = flat[start : start + BLOCK]
        torch.mul(block[: part.numel()], deviation, out=part)


def processors(preset: Preset) -> tuple[Any, Any]:
    """Return the picture and the video processor, None where there is none; those of PIL without torchvision."""
    video = preset.video_processor
    return _processor(*preset.image_processor), None if video is None else _processor(*video)


def _processor(name: str, settings: Values) -> Any:
    import transformers

    try:
        return getattr(transformers, name)(**settings)
    except ImportError:
        pil = getattr(transformers, f"{name}Pil", None)
        if pil is None:
            return None
        return pil(**settings)
