"""Training batches: scenes, their dense labels, and prompts in which many questions share one set of pictures.

A sequence is a prefix (text and pictures, in varied number and order) and several question blocks. A block sees the
prefix and itself, never another block, and its positions go on from the end of the prefix: each block is exactly the
prompt that a user would write, but the pictures are read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import questions
from .pixels import Split
from .scenes import COLOUR_NAMES, GRID, MOST_GLYPHS, SIDE, Scene, scene

IMAGE_TOKENS = GRID * GRID
IGNORED = -100
FILLERS = (
    "Look closely.",
    "Here is a picture.",
    "These are pictures of digits.",
    "Take your time.",
    "Please answer with one word.",
    "Be brief.",
    "I have a question about this.",
    "The digits are drawn on a photograph.",
    "You are a helpful assistant who looks at pictures and answers questions about what can be seen in them.",
)
BETWEEN = ("", "", "and ", "then ", "Next: ")


def corpus() -> list[str]:
    """Every word that templates and answers use, so that each becomes one token."""
    digits = " ".join(str(d) for d in range(10))
    words = f"USER: ASSISTANT: yes no {digits} {' '.join(COLOUR_NAMES)}"
    texts = [words, " " + words, *FILLERS, *BETWEEN, *(" " + filler for filler in FILLERS)]
    for number in range(3):
        rng = np.random.default_rng(number)
        for index in range(60):
            for question in questions.every(scene("train", 99, index), rng):
                texts += [
                    f"{question.text} ASSISTANT: {question.answer}",
                    questions.of_picture(question.text, number),
                ]
    return texts


@dataclass(frozen=True)
class Batch:
    """What one training step reads.

    Attributes
    ----------
    pixels
        float32 (S, 3, 112, 112) in [-1, 1], one row a scene.
    dense
        Labels a patch, each (S, 196) int64: colour (7 stands for background), and where ink is, else -100, digit and
        count (of the scene); place float32 (S, 196, 3): centre x, centre y and side of the glyph in [0, 1], NaN off
        ink.
    summary
        float32 (S, 22): digits present, colours present, one-hot count; what the CLS token is to know.
    ids, positions, labels
        int64 (B, L); labels -100 where nothing is asked.
    mask
        bool (B, 1, L, L): what may be attended to.
    """

    pixels: Tensor
    dense: dict[str, Tensor]
    summary: Tensor
    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor


def picture_tensor(scenes: list[Scene]) -> Tensor:
    """Pictures as the processor would hand them to the model: float32 (S, 3, 112, 112) in [-1, 1]."""
    stack = np.stack([s.picture for s in scenes])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def dense_labels(scenes: list[Scene]) -> tuple[dict[str, Tensor], Tensor]:
    """Labels of every patch and of the whole scene; see `Batch`."""
    owners = np.stack([s.owner.reshape(-1) for s in scenes])
    tables = np.full((len(scenes), MOST_GLYPHS + 1, 6), np.nan, dtype=np.float32)
    summary = np.zeros((len(scenes), 10 + len(COLOUR_NAMES) + MOST_GLYPHS), dtype=np.float32)
    tables[:, -1, :3] = IGNORED, len(COLOUR_NAMES), IGNORED
    for row, s in enumerate(scenes):
        for number, g in enumerate(s.glyphs):
            x, y = g.centre
            tables[row, number] = g.digit, g.colour, len(s.glyphs) - 1, x / SIDE, y / SIDE, g.side / 40
            summary[row, [g.digit, 10 + g.colour]] = 1
        summary[row, 10 + len(COLOUR_NAMES) + len(s.glyphs) - 1] = 1
    patches = torch.from_numpy(np.take_along_axis(tables, owners[..., None] % (MOST_GLYPHS + 1), 1))
    names = ("digit", "colour", "count")
    dense = {name: patches[..., place].long() for place, name in enumerate(names)}
    return {**dense, "place": patches[..., 3:]}, torch.from_numpy(summary)


class Prompts:
    """Turns scenes into sequences of prefix and question blocks for one tokenizer."""

    def __init__(self, words: Any) -> None:
        self.words = words
        self.image = words.convert_tokens_to_ids("<image>")
        self.cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens; remembered, as templates repeat."""
        if text not in self.cache:
            self.cache[text] = self.words.encode(text, add_special_tokens=False)
        return self.cache[text]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer and the end; ValueError if the answer is not one token."""
        ids = self.encode(f" {text}")
        if len(ids) != 1:
            raise ValueError(
                f"the answer {text!r} takes {len(ids)} tokens, but scoring needs one: add it to the corpus"
            )
        return [*ids, self.words.eos_token_id]

    def prefix(self, count: int, rng: np.random.Generator, lead: str = "", plain: bool = False) -> list[int]:
        """Text and `count` pictures, as a user may begin a prompt."""
        fillers = [str(rng.choice(FILLERS)) for _ in range(int(rng.integers(0, 7)) // 2)] if not plain else []
        ids = [self.words.bos_token_id, *self.encode("USER: ")]
        for text in [*fillers, *([lead] if lead else [])]:
            ids += self.encode(text + "\n")
        for number in range(count):
            ids += self.encode(str(rng.choice(BETWEEN))) if number else []
            ids += [self.image] * IMAGE_TOKENS + self.encode("\n")
        return ids

    def sequence(
        self, scenes: list[Scene], rng: np.random.Generator, each: int, kinds: tuple[str, ...] = questions.KINDS
    ) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
        """Prefix ids and (question ids, answer ids) blocks: at most `each` questions a prompt.

        Prompts that ask for a few `kinds` only are plain: no fillers, the picture first.
        """
        asked: list[tuple[str, str]] = []
        each = max(1, each // len(scenes))
        plain = kinds != questions.KINDS
        for number, s in enumerate(scenes):
            pool = [q for q in questions.every(s, rng) if q.kind in kinds]
            for q in (pool[i] for i in rng.permutation(len(pool))[:each]):
                text = q.text.replace("colour", "color") if rng.random() < 0.2 else q.text
                asked.append((text if len(scenes) == 1 else questions.of_picture(text, number), q.answer))
        if not plain and rng.random() < 0.1:
            text, answer = asked[rng.integers(len(asked))]
            return self.prefix(len(scenes), rng, text), [(self.encode("ASSISTANT:"), self.answer(answer))]
        blocks = []
        for text, answer in asked:
            lead = f"{rng.choice(FILLERS)} " if not plain and rng.random() < 0.2 else ""
            blocks.append((self.encode(f"{lead}{text} ASSISTANT:"), self.answer(answer)))
        return self.prefix(len(scenes), rng, plain=plain), blocks


def assemble(
    rows: list[tuple[list[int], list[tuple[list[int], list[int]]]]], pad: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, positions, labels (B, L) and attention mask (B, 1, L, L) of rows of a prefix and its question blocks."""
    length = max(len(prefix) + sum(len(q) + len(a) for q, a in blocks) for prefix, blocks in rows)
    ids = np.full((len(rows), length), pad)
    positions, labels = np.zeros_like(ids), np.full_like(ids, IGNORED)
    part = np.full_like(ids, -1)  # 0 the prefix, 1.. the blocks, -1 padding
    for row, (prefix, blocks) in enumerate(rows):
        end = len(prefix)
        ids[row, :end], positions[row, :end], part[row, :end] = prefix, np.arange(end), 0
        for number, (question, answer) in enumerate(blocks, 1):
            place = slice(end, end + len(question) + len(answer))
            ids[row, place], part[row, place] = question + answer, number
            positions[row, place] = len(prefix) + np.arange(len(question) + len(answer))
            labels[row, end + len(question) - 1 : end + len(question) + len(answer) - 1] = answer
            end = place.stop
    later = np.tril(np.ones((length, length), dtype=bool))
    same = (part[:, None, :] == part[:, :, None]) | (part[:, None, :] == 0)
    mask = later & same
    return (
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(labels),
        torch.from_numpy(mask)[:, None],
    )


def batch(
    prompts: Prompts,
    split: Split,
    seed: int,
    first: int,
    size: int,
    *,
    each: int = 16,
    kinds: tuple[str, ...] = questions.KINDS,
    difficulty: float | None = None,
) -> Batch:
    """The batch of scenes `first` to `first + size - 1` of stream `seed`: one, two or three pictures a prompt.

    At most `each` questions of `kinds` are asked a prompt; `difficulty` is that of `scenes.scene`.
    """
    rng = np.random.default_rng([seed, first, 7])
    scenes = [scene(split, seed, first + i, difficulty=difficulty) for i in range(size)]
    count = int(rng.choice((1, 2, 3), p=(0.75, 0.2, 0.05))) if kinds == questions.KINDS else 1
    groups = [scenes[i : i + count] for i in range(0, size, count)]
    rows = [prompts.sequence(group, rng, each, kinds) for group in groups]
    dense, summary = dense_labels(scenes)
    return Batch(picture_tensor(scenes), dense, summary, *assemble(rows, prompts.words.pad_token_id))


def stream(prompts: Prompts, seed: int, first: int, size: int) -> Iterator[Batch]:
    """Endless training batches from scene `first` on."""
    while True:
        yield batch(prompts, "train", seed, first, size)
        first += size
