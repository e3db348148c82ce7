"""What the arms of a table are called, and how each of them is beside random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arms import Arm


def slug(arm: Mapping[str, Any]) -> str:
    """Return what names an arm of a summary in its lists."""
    return Arm.from_dict(arm["arm"]).slug


def beside_random(arm: Mapping[str, Any]) -> int:
    """Return 1 where an arm is told apart from random as better, every pair compared at once, -1 as worse, else 0."""
    random = arm["baselines"].get("random")
    return 0 if random is None or arm["ahead_of"] is None else (random in arm["ahead_of"]) - (random in arm["behind"])


def rows_names(arms: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the arms of one table are called, by slug: with the settings where another one has the name."""
    found = [arm["name"] for arm in arms]
    return {slug(arm): _name(arm, found.count(arm["name"]) > 1) for arm in arms}


def _name(arm: Mapping[str, Any], shared: bool) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in sorted(arm["arm"]["settings"].items()))
    return f"{arm['name']} ({settings or 'default'})" if shared else arm["name"]
