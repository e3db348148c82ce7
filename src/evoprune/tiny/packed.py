"""The benchmark, faster: each picture is read once and all its questions are answered in one forward.

The answers are those of `benchmark.answers` (a test compares them): a question block attends to the picture and to
itself only, its positions are those of a prompt of its own, and the first new token is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .batches import IGNORED, Prompts, assemble
from .benchmark import SCENES, Example, Result, examples, picture
from .pixels import Split

Rows = list[tuple[list[int], list[tuple[list[int], list[int]]]]]


def _original(positions: Tensor, start: int, survivors: Tensor, full: int) -> Tensor:
    """Positions (B, L) with every survivor at its own place and the text behind the picture where it would be."""
    kept = survivors.shape[1]
    places = torch.where(positions >= start + kept, positions + full - kept, positions)
    places[:, start : start + kept] = start + survivors
    return places


def _answers(
    model: Any, processor: Any, prompts: Prompts, split: Split, groups: list[list[Example]], handle: Any
) -> Iterator[str]:
    inner = model.model
    pictures = [picture(split, group[0].scene).image() for group in groups]
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    features = torch.stack(list(inner.get_image_features(pixel_values=pixels, return_dict=True).pooler_output))
    before = [prompts.words.bos_token_id, *prompts.encode("USER: ")]
    prefix = [*before, *[prompts.image] * features.shape[1], *prompts.encode("\n")]
    rows: Rows = [(prefix, [(prompts.encode(f"{e.question} ASSISTANT:"), [0]) for e in group]) for group in groups]
    ids, positions, labels, mask = (part.to(model.device) for part in assemble(rows, prompts.words.pad_token_id))
    if handle is not None and any(pruner.positions == "original" for pruner in handle.pruners):
        positions = _original(positions, len(before), handle.stats.positions, handle.stats.sources.shape[1])
    embeds = inner.get_input_embeddings()(ids)
    embeds[ids == prompts.image] = features.flatten(0, 1).to(embeds.dtype)
    blocked = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)
    hidden = inner.language_model(
        inputs_embeds=embeds, attention_mask=blocked, position_ids=positions, use_cache=False
    ).last_hidden_state
    for token in model.lm_head(hidden[labels != IGNORED]).argmax(-1).tolist():
        yield prompts.words.decode([token], skip_special_tokens=True).strip()


@torch.no_grad()
def run(
    model: Any,
    processor: Any,
    split: Split,
    *,
    scenes: int = SCENES,
    batch: int = 20,
    handle: Any = None,
    asked: Sequence[Example] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Result:
    """Answer the questions of a split, `batch` scenes at a time.

    Parameters
    ----------
    model, processor
        The embedded model, pruned or not, and its processor.
    split, scenes
        Which questions, unless `asked` gives them (sorted by scene).
    handle
        The handle of the pruners in force, None without; needed for survivors that keep their original positions.
    advance
        Told the number of questions answered so far.

    Returns
    -------
    Result
    """
    asked = tuple(examples(split, scenes) if asked is None else asked)
    groups = [list(group) for _, group in groupby(asked, key=lambda e: e.scene)]
    prompts = Prompts(processor.tokenizer)
    said: list[str] = []
    for start in range(0, len(groups), batch):
        said += _answers(model, processor, prompts, split, groups[start : start + batch], handle)
        if advance is not None:
            advance(len(said))
    return Result(asked, tuple(said))
