"""The embedded model: small, trained by this project's own script on scenes made from real pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["folder", "load"]


def folder() -> Path:
    """Folder of the embedded model; plain ``AutoModelForImageTextToText.from_pretrained`` loads it."""
    return Path(os.environ.get("EVOPRUNE_TINY_MODEL", Path(__file__).with_name("model")))


def load(dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> tuple[Any, Any]:
    """Load the embedded model and its processor.

    Parameters
    ----------
    dtype
        Weights are stored in float16 and loaded in this type; float32 if None.
    device
        Where the model goes; the CPU if None.

    Returns
    -------
    model, processor
        ``LlavaForConditionalGeneration`` in eval mode and ``LlavaProcessor``.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder(), dtype=dtype or torch.float32)
    processor = AutoProcessor.from_pretrained(folder(), backend="pil")
    return model.to(device or "cpu").eval(), processor
