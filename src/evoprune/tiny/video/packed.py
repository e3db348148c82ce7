"""The video benchmark, faster: every clip is read once, for all its questions and for all runs that show less of it.

The answers are those of `benchmark.answers` (a test compares them). Here tokens may also be dropped between projector
and language model, without any pruning method: what is left is a property of the model, and methods are judged by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..batches import IGNORED, assemble
from ..benchmark import Example, Result
from ..pixels import Split
from .benchmark import film
from .prompts import ClipPrompts


@torch.no_grad()
def read(model: Any, processor: Any, split: Split, clips: int, batch: int = 4) -> Tensor:
    """What the projector makes of a split's first clips, not pooled: (clips, F, 100, width)."""
    inner, rows = model.model, []
    for start in range(0, clips, batch):
        films = [film(split, number).frames for number in range(start, min(start + batch, clips))]
        pixels = processor.video_processor(films, return_tensors="pt")["pixel_values_videos"]
        pixels = pixels.to(model.device, model.dtype)
        seen = inner.vision_tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states[-1]
        rows.append(inner.multi_modal_projector(seen).unflatten(0, pixels.shape[:2]))
    return torch.cat(rows)


def thinned(tokens: Tensor, keep: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`keep` random ones of every frame's tokens (B, F, n, width), in order, and which of the n they are."""
    chosen = torch.rand(tokens.shape[:3], generator=generator).argsort(-1)[..., :keep].sort(-1).values
    chosen = chosen.to(tokens.device)
    return tokens.gather(2, chosen[..., None].expand(-1, -1, -1, tokens.shape[-1])), chosen


def _words(
    model: Any, prompts: ClipPrompts, groups: list[list[Example]], seen: Tensor, places: Tensor
) -> Iterator[str]:
    """First new word for each question of each clip; its visual tokens `seen` (B, T, width) stand at `places`."""
    opening = [prompts.words.bos_token_id, *prompts.encode("USER: "), *[prompts.video] * seen.shape[1]]
    opening += prompts.encode("\n")
    rows = [(opening, [(prompts.encode(f"{e.question} ASSISTANT:"), [0]) for e in group]) for group in groups]
    packed = assemble(rows, prompts.words.pad_token_id)
    ids, positions, labels, mask = (part.to(model.device) for part in packed)
    start, count = opening.index(prompts.video), seen.shape[1]
    positions = torch.where(positions >= start + count, positions + places[:, -1:] + 1 - count, positions)
    positions[:, start : start + count] = start + places
    embeds = model.get_input_embeddings()(ids)
    embeds[ids == prompts.video] = seen.flatten(0, 1).to(embeds.dtype)
    blocked = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=blocked, position_ids=positions, use_cache=False
    ).last_hidden_state
    for token in model.lm_head(hidden[labels != IGNORED]).argmax(-1).tolist():
        yield prompts.words.decode([token], skip_special_tokens=True).strip()


@torch.no_grad()
def run(
    model: Any,
    processor: Any,
    asked: Sequence[Example],
    projected: Tensor,
    *,
    frames: Sequence[int] | None = None,
    pooled: bool = True,
    keep: int | None = None,
    seed: int = 0,
    original: bool = False,
    batch: int = 16,
) -> Result:
    """Answer questions about clips that `read` has read.

    Parameters
    ----------
    model, processor
        The embedded video model, not pruned, and its processor.
    asked
        Questions, sorted by clip.
    projected
        (clips, F, 100, width), as `read` returns them.
    frames
        Numbers of the frames that are shown; all if None.
    pooled
        25 pooled tokens a frame, as videos have them, or all 100 patches; a newline ends the clip.
    keep, seed
        How many random tokens of every frame stay, all if None.
    original
        Survivors keep their positions; they are numbered anew if False.
    batch
        Clips a forward.

    Returns
    -------
    Result
    """
    inner, prompts = model.model, ClipPrompts(processor.tokenizer)
    generator = torch.Generator().manual_seed(seed)
    groups = [list(group) for _, group in groupby(asked, key=lambda e: e.scene)]
    said: list[str] = []
    for start in range(0, len(groups), batch):
        part = groups[start : start + batch]
        seen = projected[[group[0].scene for group in part]]
        seen = seen if frames is None else seen[:, list(frames)]
        if pooled:
            seen = inner.apply_pooling(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        every = seen.shape[2]
        seen, chosen = thinned(seen, every if keep is None else keep, generator)
        newline = inner.image_newline.expand(len(seen), 1, -1)
        tokens = torch.cat((seen.flatten(1, 2), newline), 1)
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        if original:
            places = (chosen + every * torch.arange(chosen.shape[1], device=tokens.device)[:, None]).flatten(1)
            places = torch.cat((places, torch.full_like(places[:, :1], every * chosen.shape[1])), 1)
        said += _words(model, prompts, part, tokens, places)
    return Result(tuple(asked), tuple(said))
