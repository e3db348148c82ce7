"""What the servers are asked: pictures that no cache has seen, the same ones for every server."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

QUESTIONS = ("What is in the picture?", "How many things are there?", "Which colour is the largest part?")
COARSE = 12  # squares of a picture's side before it is enlarged: shapes, not noise alone


@dataclass(frozen=True)
class Prompt:
    """One request: a picture and a question about it.

    Attributes
    ----------
    content
        The parts of the user's message, as an OpenAI-style chat has them.
    """

    content: tuple[dict[str, Any], ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": list(self.content)}]


def prompts(number: int, *place: int, side: int) -> list[Prompt]:
    """Return `number` prompts that are always the same for a place: salt, round, clients, ...

    Parameters
    ----------
    number
        How many; no two have the same picture.
    place
        Non-negative integers. Other ones give other pictures, so that no answer can come out of a server's caches.
    side
        Height and width of the pictures in pixels.
    """
    return [_prompt(np.random.default_rng([*place, i]), side) for i in range(number)]


def _prompt(rng: np.random.Generator, side: int) -> Prompt:
    coarse = Image.fromarray(rng.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    pixels = (pixels + rng.integers(-12, 13, pixels.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
    return Prompt(({"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}))
