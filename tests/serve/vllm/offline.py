"""What plain transformers with `evoprune.apply` answers: what a server's answers are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from PIL import Image

import evoprune
from evoprune.tiny import benchmark

from . import checkpoints, engines

TOKENS = 8  # as `serving.chat` asks for


@dataclass(frozen=True)
class Known:
    """A question, its picture, the server's budget for it (None: its own), and the right reply.

    Attributes
    ----------
    prompt_tokens
        Length of the prompt with as many placeholders as survive.
    tokens
        Ids of the answer, the end of the sequence ignored.
    """

    question: str
    picture: Image.Image
    keep: int | float | None
    prompt_tokens: int
    tokens: tuple[int, ...]


def known(number: int, keeps: Sequence[int | float | None], served: float = 0.25) -> list[Known]:
    """Return questions about `number` scenes with what transformers answers, the budgets in turn."""
    examples = {one.scene: one for one in benchmark.examples("test", number)}
    return [
        answered(one.question, benchmark.picture("test", scene).image(), keep, served)
        for one, scene in zip(examples.values(), examples, strict=True)
        for keep in keeps
    ]


def answered(question: str, picture: Image.Image, keep: int | float | None, served: float = 0.25) -> Known:
    """Return one question with what transformers answers."""
    _, network, processor = checkpoints.embedded("image")
    words = benchmark.prompt(processor, question)
    inputs = processor(text=words, images=picture, return_tensors="pt", add_special_tokens=False)
    budget = served if keep is None else keep
    whole = budget == 1.0 and isinstance(budget, float)
    pruned = nullcontext() if whole else evoprune.apply(network, evoprune.EvoPrune(keep=budget))
    with engines.undecorated(network), pruned as handle, torch.no_grad():
        out = network.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        left = 196 if handle is None else handle.stats.visual_tokens[0]
    length = inputs["input_ids"].shape[1]
    return Known(question, picture, keep, length - 196 + left, tuple(out[0, length:].tolist()))
