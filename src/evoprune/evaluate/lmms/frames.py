"""Fewer frames of a video with all their tokens: as many frames as have the tokens that a pruner would keep."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ... import schedules
from ...models import find
from ...models.undo import set_attribute
from ..sweep import Refused
from .models import FRAMES


def show_fewer(lm: Any, keep: int | float | None, options: dict[str, Any], stack: ExitStack) -> int:
    """Let `lm` sample fewer frames until `stack` closes, and return how many.

    Raises
    ------
    Refused
        Its class has no number of frames, or an int `keep` where frames differ in size.
    """
    name = next((one for one in FRAMES if isinstance(getattr(lm, one, None), int)), None)
    if name is None:
        raise Refused(f"{type(lm).__name__} of lmms-eval has no number of frames to lower: leave the frames out")
    try:
        share = _share(lm.model, 1.0 if keep is None else keep, options)
        fewer = schedules.count(share, getattr(lm, name))
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    set_attribute(lm, name, fewer, stack)
    return fewer


def _share(model: Any, keep: int | float, options: dict[str, Any]) -> float:
    if isinstance(keep, float):
        return keep
    family = find(model, **options)
    if family.grid is None:
        raise ValueError(f"keep={keep} is no share of a frame where frames differ in size: give a share such as 0.25")
    tokens = family.tokens_after((), modality="video").full
    return schedules.count(keep, tokens) / tokens
