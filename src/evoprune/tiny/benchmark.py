"""The embedded benchmark: fixed dev and test questions, and a batched runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from . import questions
from .pixels import Split
from .scenes import Scene, scene

SCENES = 320  # about 2,150 questions a split
SEED = 2026


@dataclass(frozen=True)
class Example:
    """One question of the benchmark: number of its scene in the split, kind, text and right answer."""

    scene: int
    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Result:
    """Answers to a list of examples.

    Attributes
    ----------
    examples
        What was asked.
    answers
        What the model said, stripped.
    """

    examples: tuple[Example, ...]
    answers: tuple[str, ...]

    @property
    def right(self) -> np.ndarray:
        """bool (n,): which answers are exactly the right word."""
        return np.array([a == e.answer for a, e in zip(self.answers, self.examples, strict=True)])

    @property
    def accuracy(self) -> float:
        """Share of right answers over all questions."""
        return float(self.right.mean())

    def by_kind(self) -> dict[str, float]:
        """Share of right answers for each kind of question."""
        kinds = np.array([e.kind for e in self.examples])
        order = [kind for kind in dict.fromkeys((*questions.KINDS, *kinds.tolist())) if (kinds == kind).any()]
        return {kind: float(self.right[kinds == kind].mean()) for kind in order}


@lru_cache(maxsize=2 * SCENES)
def picture(split: Split, number: int) -> Scene:
    """Scene `number` of the benchmark's split."""
    return scene(split, SEED, number)


@lru_cache(maxsize=8)
def examples(split: Split, scenes: int = SCENES) -> tuple[Example, ...]:
    """The questions of a split: one of every kind that each of its first `scenes` scenes allows.

    Raises
    ------
    ValueError
        For an unknown split.
    """
    rows = []
    for number in range(scenes):
        rng = np.random.default_rng([SEED, number])
        asked = questions.one_of_each(picture(split, number), rng)
        rows += [Example(number, q.kind, q.text, q.answer) for q in asked]
    return tuple(rows)


def prompt(processor: Any, text: str, blind: bool = False) -> str:
    """The prompt that the chat template makes of a question about one picture, or about none."""
    content = [] if blind else [{"type": "image"}]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
    return processor.apply_chat_template(chat, add_generation_prompt=True)


def answers(
    model: Any,
    processor: Any,
    split: Split,
    asked: Sequence[Example],
    *,
    batch: int = 32,
    blind: bool = False,
) -> Iterator[str]:
    """Answer questions in batches through the processor and ``generate``, as a user would.

    Parameters
    ----------
    model, processor
        The embedded model, pruned or not, and its processor.
    split
        Where the scenes come from.
    asked
        Questions to answer.
    batch
        Questions a call; prompts of different lengths are padded on the left.
    blind
        Leave the picture out: the floor that a guesser reaches.

    Yields
    ------
    str
        One answer a question, in order.
    """
    pictures: dict[int, Any] = {}
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        for e in part:
            if e.scene not in pictures:
                pictures[e.scene] = picture(split, e.scene).image()
        text = [prompt(processor, e.question, blind) for e in part]
        images = {} if blind else {"images": [[pictures[e.scene]] for e in part]}
        inputs = processor(text=text, **images, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(model.device)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        yield from (word.strip() for word in processor.batch_decode(new, skip_special_tokens=True))


def run(
    model: Any,
    processor: Any,
    split: Split,
    *,
    scenes: int = SCENES,
    batch: int = 32,
    blind: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Result:
    """Run the benchmark; `advance` is told the number of questions answered so far."""
    asked = examples(split, scenes)
    said = []
    for word in answers(model, processor, split, asked, batch=batch, blind=blind):
        said.append(word)
        if advance is not None:
            advance(len(said))
    return Result(asked, tuple(said))
