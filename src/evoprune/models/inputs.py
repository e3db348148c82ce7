"""From the arguments of generate or forward to the short prompt that runs in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .base import Family
from .plan import Plan
from .prompt import Layout, find_counts, rewrite, runs_of, shorten

ATTACHED = "_evoprune_layout"  # on a cache: how the prompt in it was shortened


@dataclass
class Prompt:
    """The arguments to run, and how they came from the user's; `layout` is None where nothing was dropped."""

    arguments: dict[str, Any]
    layout: Layout | None = None
    earlier: Layout | None = None  # of the call that filled the cache
    visual_tokens: tuple[int, ...] = field(default=())
    cache: Any = None

    def remember(self, cache: Any) -> None:
        """Note the layout on the cache, so that a continuation with the user's long mask can be understood."""
        for one in (self.cache, cache):
            if one is not None and not isinstance(one, tuple):
                setattr(one, ATTACHED, self.layout)


def prepare(family: Family, plan: Plan, arguments: dict[str, Any], prefer_short: bool, generate: bool) -> Prompt:
    """Return what to run for `arguments`; they are left as they are where no placeholder is surplus.

    Raises
    ------
    ValueError
        Placeholders, images or pre-computed features that do not fit.
    """
    cache = arguments.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    earlier = getattr(cache, ATTACHED, None) if past else None
    arguments = _continued_mask(arguments, past, earlier)
    images = _images(family, plan, arguments)
    is_image = _placeholders(family, arguments, images)
    if is_image is None:
        return Prompt(arguments, earlier=earlier, cache=cache)
    runs = [length for row in runs_of(is_image) for _, length in row]
    kind = find_counts(runs, plan.count, images, past > 0, prefer_short)
    if kind == "none":
        return Prompt(arguments, earlier=earlier, cache=cache)
    short = plan.count.short
    shortened = kind == "long" and short < plan.count.full
    size = plan.count.full if kind == "long" else short
    number = sum(run // size for run in runs if run % size == 0)
    visual = (short,) * (number if images is None else images)
    if not shortened and not plan.original_positions:
        return Prompt(arguments, earlier=earlier, visual_tokens=visual, cache=cache)
    partial = past > 0 and _width(arguments) < _mask_width(arguments)
    if partial and plan.original_positions:
        raise ValueError(
            "positions='original' cannot place a new image when only the new ids are given with a cache: pass the ids "
            "of the whole conversation, or use positions='contiguous'"
        )
    layout = _layout(family, plan, arguments, is_image, generate, shortened)
    return Prompt(_shortened(plan, arguments, layout, partial), layout, earlier, visual, cache)


def _layout(
    family: Family, plan: Plan, arguments: dict[str, Any], is_image: Tensor, generate: bool, shortened: bool
) -> Layout:
    width, mask = is_image.shape[1], arguments.get("attention_mask")
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
    layout = shorten(is_image, mask, plan.count, left=not right_padded, surplus=shortened)
    ids = arguments.get("input_ids")
    layout.ids = ids if isinstance(ids, Tensor) and ids.shape[1] == width else None
    given = arguments.get("position_ids")
    layout.position_ids = given if isinstance(given, Tensor) and given.shape[-1] == width else None
    return layout


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


def _images(family: Family, plan: Plan, arguments: Mapping[str, Any]) -> int | None:
    features = (arguments.get("mm_encoder_outputs") or {}).get("image")
    if features is None:
        return family.images(arguments)
    lengths = {len(one) for one in features.pooler_output}
    if lengths - {plan.count.short}:
        raise ValueError(
            f"mm_encoder_outputs carries {sorted(lengths)} tokens an image where the pruner leaves {plan.count.short}: "
            "compute it with get_image_features while the pruner is applied"
        )
    return len(features.pooler_output)


def _placeholders(family: Family, arguments: Mapping[str, Any], images: int | None) -> Tensor | None:
    """Return bool (B, L) on the CPU: which columns are image placeholders; None without ids or images."""
    ids = arguments.get("input_ids")
    embeds = arguments.get("inputs_embeds")
    if embeds is not None and not images:
        return None  # the caller has put the features in already
    if isinstance(embeds, Tensor) and (ids is None or ids.shape[1] != embeds.shape[1]):
        token = torch.full((), family.image_token_id, dtype=torch.long, device=embeds.device)
        return (embeds == family.model.get_input_embeddings()(token)).all(-1).cpu()
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        return None
    return (ids == family.image_token_id).cpu()


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
