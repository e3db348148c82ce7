"""One row of the table that every family goes through: a tiny random model and how to talk to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests import builders


class Picture(NamedTuple):
    """A picture of random pixels: height, width, seed."""

    height: int
    width: int
    seed: int = 0


class Video(NamedTuple):
    """A clip of random pixels: frames, height, width, seed."""

    frames: int
    height: int
    width: int
    seed: int = 0


Part = str | Picture | Video
Row = Sequence[Part]  # one prompt: texts, pictures and videos in order


@dataclass(frozen=True)
class Case:
    """A family as the tests see it.

    Attributes
    ----------
    name
        Of the case, unique; `family` is the name in `evoprune.models.FAMILIES`.
    model
        Builds the model: float32, eval mode, the same weights each time, weights large enough that answers depend on
        the pictures (see `settle`).
    inputs
        Turns a batch of rows into what the family's own processor returns, left-padded; the true processor of
        transformers wherever it can be built without files.
    pictures
        Pictures of at least 20 sizes (one size is enough where the processor makes all the same).
    videos
        Videos of several numbers of frames, empty where the family takes none.
    full, short
        The literal number of placeholders of a picture or video, native and with ``keep`` an int or a share: written
        out for the test, not taken from the library.
    keep
        An int budget for a picture or frame that is below all of `pictures` and `videos`.
    layers
        Of the tower that run.
    options
        Options of `apply`, if any.
    mixes
        Whether its processor takes pictures and videos in one call.
    """

    name: str
    family: str
    model: Callable[[], Any]
    inputs: Callable[[Sequence[Row]], dict[str, Any]]
    pictures: tuple[Picture, ...]
    full: Callable[[Picture | Video], int]
    short: Callable[[Picture | Video, int | float], int]
    keep: int
    videos: tuple[Video, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    mixes: bool = True

    def __str__(self) -> str:
        return self.name


def settle(model: Any, letters_only: bool = True) -> Any:
    """Give a freshly built model weights that make answers depend on the pictures, and letters as answers."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.15 if "position" not in name else 0.1)
        if letters_only:
            letters = [i for i, byte in enumerate(builders.BYTES) if byte.isascii() and byte.isalpha()]
            silent = torch.ones(model.lm_head.weight.shape[0], dtype=torch.bool)
            silent[[len(builders.SPECIAL) + i for i in letters]] = False
            model.lm_head.weight[silent] = 0.0
    model.generation_config.eos_token_id = None  # every answer has the length asked for
    model.generation_config.pad_token_id = 0
    return model.eval()


def draw(part: Picture | Video) -> Any:
    """Return a picture (PIL) or a clip's frames (uint8 array, frames x height x width x 3)."""
    rng = np.random.default_rng(part.seed)
    if isinstance(part, Picture):
        return Image.fromarray(rng.integers(0, 256, (part.height, part.width, 3), dtype=np.uint8))
    return rng.integers(0, 256, (part.frames, part.height, part.width, 3), dtype=np.uint8)


def texts_of(rows: Sequence[Row], image: str, video: str = "<video>") -> list[str]:
    """Return the prompts with `image` and `video` where pictures and videos stand."""
    marks = {Picture: image, Video: video}
    return ["".join(part if isinstance(part, str) else marks[type(part)] for part in row) for row in rows]


def drawn(rows: Sequence[Row], kind: type) -> list[Any]:
    """Return all pictures, or all videos, of a batch in order."""
    return [draw(part) for row in rows for part in row if isinstance(part, kind)]


def tokenizer(*extra: str, **named: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer whose special tokens are those of `builders` and `extra` behind the bytes.

    `named` sets attributes such as ``image_token="<image>"``.
    """
    words = builders.tokenizer()
    if extra:
        words.add_special_tokens({"additional_special_tokens": list(extra)}, replace_extra_special_tokens=False)
    for name, value in named.items():
        setattr(words, name, value)
    return words
