"""The embedded video model: a small LLaVA-OneVision, trained by this project's own script on clips of real pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["folder", "load"]


def folder() -> Path:
    """Folder of the embedded video model; plain ``AutoModelForImageTextToText.from_pretrained`` loads it."""
    return Path(os.environ.get("EVOPRUNE_TINY_VIDEO_MODEL", Path(__file__).with_name("model")))


def load(dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> tuple[Any, Any]:
    """Load the embedded video model and its processor, which needs torchvision.

    Parameters
    ----------
    dtype
        Weights are stored in float16 and loaded in this type; float32 if None.
    device
        Where the model goes; the CPU if None.

    Returns
    -------
    model, processor
        ``LlavaOnevisionForConditionalGeneration`` in eval mode and ``LlavaOnevisionProcessor``; a clip is
        ``processor(videos=[frames], text=...)`` with frames uint8 (F, height, width, 3).
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder(), dtype=dtype or torch.float32)
    return model.to(device or "cpu").eval(), AutoProcessor.from_pretrained(folder())
