"""An embedded model with its benchmark: loaded, asked through processor and ``generate``, and told apart by facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ... import __version__, tiny
from ...errors import unknown
from ...identity import identify
from ...models import find
from ...models.counts import Modality
from ...tiny import benchmark as scenes
from ...tiny import pixels
from ...tiny import video as tiny_video
from ...tiny.benchmark import Example
from ...tiny.defaults import EMBEDDED, folder
from ...tiny.video import benchmark as clips
from ...tiny.video.clips import FRAMES
from .tasks import MODELS, TASKS
from .tasks import SPLIT as _SPLIT
from .told import place

SPLIT: pixels.Split = _SPLIT  # type: ignore[assignment]

BATCH = {"image": 32, "video": 40}
DTYPES = ("float32", "float16", "bfloat16")


class EmbeddedModel:
    """One of the embedded models.

    Parameters
    ----------
    name
        ``"tiny"`` or ``"tiny-video"``.
    dtype
        Of the weights; float32 if None.
    device
        Where they go.
    options
        The choices of the model's family that `evoprune.apply` is going to be given, which counts depend on.

    Raises
    ------
    ValueError
        An unknown name, dtype or option.
    """

    def __init__(
        self,
        name: str,
        dtype: torch.dtype | str | None = None,
        device: str = "cpu",
        options: Mapping[str, str] | None = None,
    ):
        if name not in EMBEDDED:
            raise ValueError(unknown("embedded model", name, EMBEDDED))
        self.name, self.dtype = name, _dtype(dtype)
        self.task = next(task for task, model in MODELS.items() if model == name)
        self.modality: Modality = TASKS[self.task]  # type: ignore[assignment]
        self.model, self.processor = (tiny if self.modality == "image" else tiny_video).load(self.dtype, device)
        self.family = find(self.model, **(options or {}))

    def answers(self, asked: Sequence[Example], batch: int, frames: Sequence[int] | None = None) -> Iterator[str]:
        """Yield one answer a question; of clips only the frames with these numbers are shown, all if None."""
        if self.modality == "image":
            return scenes.answers(self.model, self.processor, SPLIT, asked, batch=batch)
        return clips.answers(self.model, self.processor, SPLIT, asked, batch=batch, frames=frames)

    def clip_tokens(self) -> tuple[int, int]:
        """Return the frames of a clip, and the tokens that each of them has in the language model."""
        return FRAMES, self.family.tokens_after((), modality="video").full

    def facts(self) -> dict[str, Any]:
        """Return what decides the answers of the model and which questions there are, as JSON values without paths."""
        home, bench = folder(self.name), scenes if self.modality == "image" else clips
        return {
            "model": self.name,
            "fingerprint": identify(self.model.config).fingerprint,
            "weights": digest(home, "*.safetensors"),
            "processor": digest(home, "*token*.json", "*processor*.json"),
            "template": hashlib.sha256(self.processor.chat_template.encode()).hexdigest(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self.model.config._attn_implementation,
            **place(self.model.device),
            "benchmark": {
                "task": self.task,
                "split": SPLIT,
                "seed": bench.SEED,
                "pixels": digest(pixels.archive().parent, pixels.archive().name),
            },
            "versions": {"evoprune": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        }


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    name = str(dtype or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(unknown("dtype of an embedded model", name, DTYPES))
    return getattr(torch, name)


@lru_cache(maxsize=16)
def digest(home: Path, *patterns: str) -> str:
    """Return the SHA-256 of the files of a folder that fit, in the order of their names."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in home.glob(pattern)}):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
