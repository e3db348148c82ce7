"""Which pictures and videos a call brings along, and where they stand in its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .base import Family
from .counts import MODALITIES, Modality, Segment
from .plan import Plan
from .segments import Found, assign_segments, find_counts, uniform_segments


def visual_tokens(segments: list[Segment]) -> list[int]:
    """Return the placeholders of each picture and video; the frames of one video are added up."""
    counts: list[int] = []
    for segment in segments:
        if segment.more and counts:
            counts[-1] += segment.count.short
        else:
            counts.append(segment.count.short)
    return counts


def by_row(
    found: list[Found], rows: int, earlier: Mapping[Modality, list[list[Segment]]]
) -> dict[Modality, list[list[Segment]]]:
    """Return the segments of each row and modality, behind those of `earlier` turns."""
    table: dict[Modality, list[list[Segment]]] = {}
    for modality in MODALITIES:
        before = earlier.get(modality, [])
        table[modality] = [list(before[row]) if row < len(before) else [] for row in range(rows)]
    for one in found:
        table[one.modality][one.row].append(one.segment)
    return table


def find_segments(
    family: Family,
    plan: Plan,
    rows: list[list[tuple[int, int]]],
    given: list[Segment] | None,
    earlier: list[list[Segment]],
    modality: Modality,
    cached: bool,
    prefer_short: bool,
) -> list[Found]:
    """Return the segments of a modality in the prompt's runs of placeholders."""
    lengths = [length for row in rows for _, length in row]
    if not family.uniform:
        if given is None and not earlier:
            return []
        if not lengths and given and not cached:
            raise ValueError(
                f"the prompt holds no {modality} placeholder but {len(given)} {modality}s were given: expand the "
                "prompt with the model's own processor"
            )
        if not lengths:
            return []
        return assign_segments(rows, given or [], earlier, modality)
    segment = given[0] if given else Segment(family.tokens_after(plan.pruners, modality=modality))
    if segment.count.short == segment.count.full and not plan.reads_prompt:
        return []  # nothing to drop: pictures of other sizes are the model's own affair
    kind = find_counts(lengths, segment.count, None if given is None else len(given), cached, prefer_short)
    return [] if kind == "none" else uniform_segments(rows, segment, modality, kind == "long")


def given_segments(
    family: Family, plan: Plan, arguments: Mapping[str, Any], modality: Modality
) -> list[Segment] | None:
    """Return the segments that a call brings along as pixels or as features; None if none."""
    features = (arguments.get("mm_encoder_outputs") or {}).get(modality)
    if features is None:
        return family.segments(arguments, modality, plan.pruners)
    lengths = [len(one) for one in features.pooler_output]
    segments = family.segments(arguments, modality, plan.pruners) or []
    if family.uniform and not segments:
        segments = [Segment(family.tokens_after(plan.pruners, modality=modality))] * len(lengths)
    expected = [one.count.short for one in segments]
    if not segments:
        raise ValueError(
            f"mm_encoder_outputs carries {modality} features, but nothing tells the sizes of the {modality}s: give the "
            "image_sizes or grids of the processor along"
        )
    if lengths != expected and sum(lengths) != sum(expected):
        raise ValueError(
            f"mm_encoder_outputs carries {sorted(set(lengths))} tokens an {modality} where the pruner leaves "
            f"{' or '.join(map(str, sorted(set(expected))))}: compute it with get_{modality}_features while the pruner "
            "is applied, and give the sizes or grids along"
        )
    return segments


def placeholders(
    family: Family, arguments: Mapping[str, Any], modality: Modality, given: list[Segment] | None
) -> Tensor | None:
    """Return bool (B, L) on the CPU: which columns are placeholders; None without ids or images."""
    ids, embeds, placeholder = arguments.get("input_ids"), arguments.get("inputs_embeds"), family.token_id(modality)
    if placeholder is None or (embeds is not None and not given):
        return None  # the caller has put the features in already
    if isinstance(embeds, Tensor) and (ids is None or ids.shape[1] != embeds.shape[1]):
        token = torch.full((), placeholder, dtype=torch.long, device=embeds.device)
        return (embeds == family.model.get_input_embeddings()(token)).all(-1).cpu()
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        return None
    return (ids == placeholder).cpu()
