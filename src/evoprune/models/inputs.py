"""From the arguments of generate or forward to the short prompt that runs in their place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .base import Family, Modality, Segment
from .facts import Block, Facts, facts_of
from .plan import Plan
from .prompt import Layout, rewrite, shorten
from .segments import Found, runs_of
from .visuals import by_row, find_segments, given_segments, placeholders, visual_tokens

ATTACHED = "_evoprune_layout"  # on a cache: how the prompt in it was shortened


@dataclass(frozen=True)
class Memory:
    """What a cache knows of the prompt in it: its layout, and the segments of each row and modality."""

    layout: Layout | None
    segments: Mapping[Modality, list[list[Segment]]]


@dataclass
class Prompt:
    """The arguments to run, and how they came from the user's; `layout` is None where nothing was dropped."""

    arguments: dict[str, Any]
    layout: Layout | None = None
    earlier: Layout | None = None  # of the call that filled the cache
    visual_tokens: tuple[int, ...] = field(default=())
    cache: Any = None
    segments: Mapping[Modality, list[list[Segment]]] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    past: int = 0  # columns in the cache before the first of this call's

    @property
    def facts(self) -> Facts | None:
        """What stands where in the prompt that runs."""
        if self.layout is None:
            spots = [(one.row, one.column, one.segment, one.modality) for one in self.found]
        else:
            spots = [(slot.row, slot.short, slot.segment, slot.modality) for slot in self.layout.slots]
        cached = int(self.cache.get_seq_length()) if self.cache is not None else 0
        blocks = [
            Block(row, start, segment.count.short, segment.items, modality, self.past + start >= cached)
            for row, start, segment, modality in spots
        ]
        return facts_of(self.arguments, blocks, self.past)

    def remember(self, cache: Any) -> None:
        """Note the layout on the cache, so that a continuation with the user's long mask can be understood."""
        for one in (self.cache, cache):
            if one is not None and not isinstance(one, tuple) and (self.layout or self.segments):
                setattr(one, ATTACHED, Memory(self.layout, self.segments))


def prepare(family: Family, plan: Plan, arguments: dict[str, Any], prefer_short: bool, generate: bool) -> Prompt:
    """Return what to run for `arguments`; they are left as they are where no placeholder is surplus.

    Raises
    ------
    ValueError
        Placeholders, images or pre-computed features that do not fit.
    """
    cache = arguments.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    memory = getattr(cache, ATTACHED, None) if past else None
    earlier = memory.layout if memory is not None else None
    arguments = _continued_mask(arguments, past, earlier)
    # A plain forward is given what is not cached yet, generate the whole conversation unless its mask is longer.
    behind = past if not generate or _width(arguments) < _mask_width(arguments) else 0
    found: list[Found] = []
    visual: list[int] = []
    is_visual = None
    for modality in family.modalities:
        given = given_segments(family, plan, arguments, modality)
        places = placeholders(family, arguments, modality, given)
        if places is None:
            continue
        is_visual = places if is_visual is None else is_visual | places
        kept = [] if memory is None else memory.segments.get(modality, [])
        here = find_segments(family, plan, runs_of(places), given, kept, modality, past > 0, prefer_short)
        found += here
        visual += visual_tokens(given if given is not None else [one.segment for one in here])
    if is_visual is None or not found:
        if plan.decoder is not None and not past and isinstance(arguments.get("inputs_embeds"), Tensor):
            warnings.warn(
                f"{plan.decoder.name} cannot tell which of the inputs_embeds are visual tokens, and drops none: give "
                "input_ids and pixel_values",
                stacklevel=2,
            )
        arguments = _followed(family, arguments, past, earlier, generate)
        return Prompt(arguments, earlier=earlier, cache=cache, past=behind)
    partial = past > 0 and _width(arguments) < _mask_width(arguments)
    segments = by_row(found, is_visual.shape[0], memory.segments if memory is not None and partial else {})
    shortened = any(one.surplus and one.segment.count.short < one.segment.count.full for one in found)
    short = any(one.segment.count.short < one.segment.count.full for one in found)
    unplaced = partial and family.mrope and earlier is not None  # one short prompt makes all that follows ours to place
    if not shortened and not (plan.original_positions and short) and not unplaced:
        return Prompt(
            arguments, earlier=earlier, visual_tokens=tuple(visual), cache=cache, segments=segments, found=found,
            past=behind,
        )  # fmt: skip
    if partial and plan.original_positions:
        raise ValueError(
            "original positions cannot be found for a new image when only the new ids are given with a cache: pass the "
            f"ids of the whole conversation{'' if family.mrope else ', or use positions=' + repr('contiguous')}"
        )
    found.sort(key=lambda one: (one.row, one.column))
    layout = _layout(family, arguments, is_visual, generate, found)
    if past and not partial and earlier is not None:
        _check_cached(layout, earlier)
    changed = _shortened(plan, arguments, layout, partial)
    return Prompt(changed, layout, earlier, tuple(visual), cache, segments, found, behind)


def _followed(
    family: Family, arguments: dict[str, Any], past: int, earlier: Layout | None, generate: bool
) -> dict[str, Any]:
    """Number the text behind a shortened prompt in the cache ourselves: a model of three axes counts from its own."""
    if not family.mrope or earlier is None or not past or not (width := _width(arguments)):
        return arguments
    columns = torch.arange(past + width)[None]
    ranks = (columns - earlier.first[:, None]).clamp(min=0)
    device = next(value.device for name in ("input_ids", "inputs_embeds") if (value := arguments.get(name)) is not None)
    return {**arguments, "position_ids": (ranks if generate else ranks[:, past:]).to(device)}


def _layout(family: Family, arguments: dict[str, Any], is_visual: Tensor, generate: bool, found: list[Found]) -> Layout:
    width, mask = is_visual.shape[1], arguments.get("attention_mask")
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        shape = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"of type {type(mask).__name__}"
        raise ValueError(
            f"an attention_mask {shape} cannot be shortened with the prompt: give one of shape (batch, tokens), or "
            "prompts that are short already with patch_processor and positions='contiguous'"
        )
    if mask is None and generate:
        mask = _mask_from_padding(family.model, arguments)
    mask = None if mask is None else mask[:, -width:].cpu()
    right_padded = mask is not None and not generate and bool((mask[:, -1] == 0).any())
    layout = shorten(is_visual, mask, found, left=not right_padded)
    ids = arguments.get("input_ids")
    layout.ids = ids if isinstance(ids, Tensor) and ids.shape[1] == width else None
    given = arguments.get("position_ids")
    layout.position_ids = given if isinstance(given, Tensor) and given.shape[-1] == width else None
    return layout


def _check_cached(layout: Layout, earlier: Layout) -> None:
    """Raise ValueError where the prompt's columns are not those that the cache was filled with."""
    width = earlier.columns.shape[1]
    if layout.columns.shape[1] < width or not torch.equal(layout.columns[:, :width], earlier.columns):
        raise ValueError(
            "the rows of this turn lose different numbers of visual tokens, so that they would stand elsewhere than in "
            "the cache: generate the rows one by one, or without past_key_values"
        )


def _shortened(plan: Plan, arguments: dict[str, Any], layout: Layout, partial: bool) -> dict[str, Any]:
    changed = rewrite(layout, arguments)
    device = next(value.device for name in ("input_ids", "inputs_embeds") if (value := arguments.get(name)) is not None)
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor):
        new = layout.mask.to(mask.device, mask.dtype)
        changed["attention_mask"] = torch.cat((mask[:, : -layout.long_width], new), dim=1) if partial else new
    elif not bool(layout.mask.all()):
        changed["attention_mask"] = layout.mask.to(device)
    if plan.original_positions:
        changed["position_ids"] = layout.ranks().to(device)
    elif layout.position_ids is not None:
        given = layout.position_ids
        columns = layout.columns.clamp(min=0).to(given.device)
        start = columns.gather(1, layout.first.to(given.device)[:, None])
        skipped = columns - start - layout.ranks().to(given.device)
        taken = given.expand(columns.shape[0], -1).gather(1, columns) - skipped
        changed["position_ids"] = taken.masked_fill(layout.columns.to(given.device) < 0, 0)
    return changed


def _continued_mask(arguments: dict[str, Any], past: int, earlier: Layout | None) -> dict[str, Any]:
    """Shorten the part of a long mask that stands for a prompt in the cache, when only new ids are given."""
    mask, width = arguments.get("attention_mask"), _width(arguments)
    if not past or earlier is None or not isinstance(mask, Tensor) or mask.ndim != 2 or not width:
        return arguments
    if mask.shape[1] != past + earlier.dropped + width:
        return arguments
    if mask.shape[1] == width:  # the whole conversation is given, and is shortened as a whole
        return arguments
    mask = torch.cat((earlier.mask.to(mask.device, mask.dtype), mask[:, earlier.long_width :]), dim=1)
    return {**arguments, "attention_mask": mask}


def _width(arguments: Mapping[str, Any]) -> int:
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(arguments.get(name), Tensor):
            return int(arguments[name].shape[1])
    return 0


def _mask_width(arguments: Mapping[str, Any]) -> int:
    mask = arguments.get("attention_mask")
    return int(mask.shape[1]) if isinstance(mask, Tensor) and mask.ndim == 2 else 0


def _mask_from_padding(model: Any, arguments: Mapping[str, Any]) -> Tensor | None:
    """Find padding in the ids as generate does: by the pad id, where it is no end-of-sequence id too."""
    ids = arguments.get("input_ids")
    config = arguments.get("generation_config") or getattr(model, "generation_config", None)
    pad = arguments.get("pad_token_id", getattr(config, "pad_token_id", None))
    ends = arguments.get("eos_token_id", getattr(config, "eos_token_id", None))
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    if not isinstance(ids, Tensor) or not isinstance(pad, int) or pad in ends or not bool((ids == pad).any()):
        return None
    return ids.ne(pad).long()
