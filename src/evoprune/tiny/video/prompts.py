"""Prompts about clips: text and visual placeholders, and blocks of questions that share them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import batches as pictures
from ..batches import Prompts
from ..scenes import COLOUR_NAMES
from . import questions
from .clips import Clip, clip
from .labels import CELLS, PATCHES

BINDING = ("digit", "colour")
FILLERS = (
    *pictures.FILLERS,
    "Here is a clip.",
    "Watch closely.",
    "These are frames of a clip, in order.",
    "Digits move over a photograph.",
)


def corpus() -> list[str]:
    """Every word that templates and answers use, so that each becomes one token."""
    digits = " ".join(str(d) for d in range(10))
    words = f"USER: ASSISTANT: yes no left right nowhere first second third {digits} {' '.join(COLOUR_NAMES)}"
    texts = [words, " " + words, *FILLERS, *pictures.BETWEEN, *(" " + filler for filler in FILLERS)]
    for index in range(60):
        for question in questions.every(clip("train", 99, index), np.random.default_rng(index)):
            texts.append(f"{question.text} ASSISTANT: {question.answer}")
            texts.append(question.text.replace("colour", "color"))
    return [*pictures.corpus(), *texts]


class ClipPrompts(Prompts):
    """Turns clips into sequences of prefix and question blocks, as a video or as several pictures."""

    def __init__(self, words: Any) -> None:
        super().__init__(words)
        self.video = words.convert_tokens_to_ids("<video>")

    def opening(self, frames: int, pooled: bool, rng: np.random.Generator, lead: str, plain: bool) -> list[int]:
        """Text and visual placeholders, as a user may begin a prompt."""
        fillers = [str(rng.choice(FILLERS)) for _ in range(int(rng.integers(0, 7)) // 2)] if not plain else []
        ids = [self.words.bos_token_id, *self.encode("USER: ")]
        for text in [*fillers, *([lead] if lead else [])]:
            ids += self.encode(text + "\n")
        if pooled:
            return [*ids, *[self.video] * (frames * CELLS**2 + 1), *self.encode("\n")]
        for number in range(frames):
            ids += self.encode(str(rng.choice(pictures.BETWEEN))) if number and not plain else []
            ids += [self.image] * (PATCHES + 1) + self.encode("\n")
        return ids

    def about(
        self, c: Clip, pooled: bool, rng: np.random.Generator, each: int, level: int
    ) -> tuple[list[int], list[tuple[list[int], list[int]]], list[int | None]]:
        """Prefix ids, at most `each` (question ids, answer ids) blocks, and the digit that each is about.

        `level` is that of the plan.
        """
        pool = [q for q in questions.every(c, rng) if level or q.kind in BINDING]
        pool = [pool[i] for i in rng.permutation(len(pool))]
        first = [q for q in pool if level > 1 and q.kind in questions.KINDS]
        first += [q for q in pool if q.kind in BINDING][:3]
        chosen = [*first, *(q for q in pool if q not in first and q.kind not in questions.KINDS)][:each]
        texts = [q.text.replace("colour", "color") if level and rng.random() < 0.2 else q.text for q in chosen]
        plain = level < 2 or rng.random() < 0.5
        if not plain and rng.random() < 0.1:
            number = int(rng.integers(len(chosen)))
            ids = self.opening(len(c.frames), pooled, rng, texts[number], plain)
            return ids, [(self.encode("ASSISTANT:"), self.answer(chosen[number].answer))], [chosen[number].about]
        blocks = []
        for text, q in zip(texts, chosen, strict=True):
            lead = f"{rng.choice(FILLERS)} " if not plain and rng.random() < 0.2 else ""
            blocks.append((self.encode(f"{lead}{text} ASSISTANT:"), self.answer(q.answer)))
        return self.opening(len(c.frames), pooled, rng, "", plain), blocks, [q.about for q in chosen]
