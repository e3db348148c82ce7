"""What the models are shown: pictures and clips with structure, and prompts with the placeholders they need."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..models import Family
from ..models.base import Modality

TURNS = 3  # different inputs that the repeats go through in turn
WORDS = 1000  # text tokens are drawn from the first so many ids, behind the special ones of small vocabularies


@dataclass(frozen=True)
class Shape:
    """What one call brings along: pictures or frames of one video in each of `batch` prompts."""

    images: int | None = 1
    frames: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if (self.images is None) == (self.frames is None):
            raise ValueError("a prompt has either pictures or a video: give images or frames, not both")

    @property
    def modality(self) -> Modality:
        return "image" if self.frames is None else "video"

    @property
    def items(self) -> int:
        """Pictures or frames of the whole call."""
        return self.batch * ((self.images or 0) + (self.frames or 0))

    def __str__(self) -> str:
        kind, number = ("image", self.images) if self.frames is None else ("frame", self.frames)
        return f"{number} {kind}{'' if number == 1 else 's'}" + (f", batch {self.batch}" if self.batch > 1 else "")


def picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 (H, W, 3): soft clouds, some sharp boxes, a little noise."""
    clouds = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    canvas = np.asarray(Image.fromarray(clouds).resize((width, height), resample=Image.Resampling.BICUBIC)).copy()
    for _ in range(12):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        tall, wide = int(rng.integers(4, 5 + height // 4)), int(rng.integers(4, 5 + width // 4))
        canvas[top : top + tall, left : left + wide] = rng.integers(0, 256, 3, dtype=np.uint8)
    noise = rng.integers(-8, 9, canvas.shape, dtype=np.int16)
    return np.clip(canvas.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def clip(frames: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 (F, H, W, 3): a window that wanders over one large picture."""
    room = 64
    large = picture(height + room, width + room, rng)
    phase = rng.uniform(0.0, 2 * np.pi, 2)
    steps = np.linspace(0.0, 2 * np.pi, frames, endpoint=False)
    tops = ((np.sin(steps + phase[0]) + 1) / 2 * room).astype(int)
    lefts = ((np.cos(2 * steps + phase[1]) + 1) / 2 * room).astype(int)
    return np.stack([large[top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)])


class Maker:
    """Makes the inputs of one model: the same for every arm, another one each turn.

    Parameters
    ----------
    family
        Of the model without pruners, or of its skeleton: it tells the placeholders.
    size
        Height and width of pictures and frames.
    prompt
        Text tokens of a prompt.
    """

    def __init__(
        self,
        family: Family,
        image_processor: Any,
        video_processor: Any,
        *,
        size: tuple[int, int],
        prompt: int = 40,
        seed: int = 0,
    ):
        self.family, self.size, self.prompt, self.seed = family, size, prompt, seed
        self.image_processor, self.video_processor = image_processor, video_processor
        names = inspect.signature(family.model.forward).parameters
        self.accepted = set(names)

    def check(self, shape: Shape) -> None:
        """Raise ValueError where the model takes no such input."""
        videos = self.family.frames_as_images or "video" in self.family.modalities
        if shape.modality == "video" and videos and self.video_processor is None:
            raise ValueError(f"there is no video processor for {self.family.name} here: pip install 'evoprune[video]'")
        if shape.modality == "video" and not videos:
            raise ValueError(f"{self.family.name} is shown pictures here, no videos: give --images instead of --frames")
        if shape.modality == "image" and self.image_processor is None:
            raise ValueError(f"there is no picture processor for {self.family.name} here: install torchvision")

    def raw(self, shape: Shape, turn: int) -> list[list[Any]]:
        """Return for each prompt its pictures (PIL), or its one clip (uint8 array)."""
        rows: list[list[Any]] = []
        for row in range(shape.batch):
            rng = np.random.default_rng([self.seed, turn % TURNS, row])
            if shape.frames is not None:
                rows.append([clip(shape.frames, *self.size, rng)])
            else:
                rows.append([Image.fromarray(picture(*self.size, rng)) for _ in range(shape.images or 0)])
        return rows

    def preprocess(self, raw: list[list[Any]], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return what the model takes of the processor's output, on `device` and in `dtype`."""
        if isinstance(raw[0][0], np.ndarray):
            made = self._videos([one for row in raw for one in row])
        else:
            # Where pixels come by prompt, the processor wants pictures so; the others take a flat list.
            pictures = raw if self.family.repeats_rows else [one for row in raw for one in row]
            made = dict(self.image_processor(images=pictures, return_tensors="pt"))
        return {
            name: value.to(device, dtype if torch.is_floating_point(value) else None)
            for name, value in made.items()
            if isinstance(value, Tensor) and name in self.accepted
        }

    def _videos(self, clips: list[np.ndarray]) -> dict[str, Any]:
        facts = [
            {
                "total_num_frames": len(one),
                "fps": 2.0,
                "frames_indices": list(range(len(one))),
                "duration": len(one) / 2,
            }
            for one in clips
        ]
        made = dict(
            self.video_processor(videos=clips, video_metadata=facts, do_sample_frames=False, return_tensors="pt")
        )
        if self.family.frames_as_images and "pixel_values_videos" in made:  # frames are pictures to this model
            made["pixel_values"] = made.pop("pixel_values_videos").flatten(0, 1)
        return made

    def prompt_of(self, shape: Shape, pixels: Mapping[str, Any]) -> dict[str, Any]:
        """Return ids and masks of prompts that hold the native placeholders of `pixels`."""
        rows = self._rows(shape, pixels)
        device = next(value.device for value in pixels.values())
        table = torch.tensor(rows, device=device)
        made: dict[str, Any] = {"input_ids": table, "attention_mask": torch.ones_like(table)}
        kinds = sum(
            (number + 1) * (table == token)
            for number, modality in enumerate(self.family.modalities)
            if (token := self.family.token_id(modality)) is not None
        )
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in self.accepted:
                made[name] = torch.as_tensor(kinds, device=device).long()
        return made

    def _rows(self, shape: Shape, pixels: Mapping[str, Any]) -> list[list[int]]:
        """Return the ids of each prompt: text, then each segment with a word before and behind it, then text."""
        modality = self._seen(shape)
        segments = self.family.segments(pixels, modality, ()) or []
        each, token = len(segments) // shape.batch, self.family.token_id(modality)
        config = self.family.base.config
        start, end = (getattr(config, f"vision_{place}_token_id", None) for place in ("start", "end"))
        words = self._words(shape.batch)
        rows = []
        for row in range(shape.batch):
            text = iter(words[row])
            ids: list[Any] = [next(text) for _ in range(self.prompt // 2)]
            for segment in segments[row * each : (row + 1) * each]:
                before = next(text, words[row][0]) if start is None else start
                behind = next(text, words[row][1]) if end is None else end
                ids += [before, *[token] * segment.count.full, behind]
            rows.append([*ids, *text])
        return rows

    def _words(self, rows: int) -> list[list[int]]:
        size = int(self.family.model.get_input_embeddings().weight.shape[0])
        config = self.family.base.config
        special = {getattr(config, name, None) for name in dir(config) if name.endswith(("token_id", "token_index"))}
        usable = [word for word in range(min(3, size - 1), min(size, WORDS)) if word not in special]
        rng = np.random.default_rng([self.seed, rows])
        return [[usable[i] for i in rng.integers(len(usable), size=self.prompt)] for _ in range(rows)]

    def _seen(self, shape: Shape) -> Modality:
        return "image" if self.family.frames_as_images else shape.modality

    def placeholders(
        self, shape: Shape, pixels: Mapping[str, Any], family: Family | None = None, pruners: Any = ()
    ) -> int:
        """Return the visual tokens of the whole call: natively, or by `family` with its options and its pruners."""
        segments = (family or self.family).segments(pixels, self._seen(shape), pruners) or []
        return sum(one.count.short for one in segments)

    def features(self, model: Any, shape: Shape, pixels: Mapping[str, Any]) -> Any:
        """Run tower and projector alone: what the language model would be given."""
        base = getattr(model, "base_model", model)
        if self._seen(shape) == "video":
            call, first = base.get_video_features, "pixel_values_videos"
        else:
            call, first = base.get_image_features, "pixel_values"
        known = inspect.signature(call).parameters
        rest = {name: value for name, value in pixels.items() if name in known and name != first}
        if "return_dict" in known:
            rest["return_dict"] = True
        return call(pixels[first], **rest)  # transformers has renamed the first argument once
