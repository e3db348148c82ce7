"""Who is drawn how: one colour and marker a method in all pictures, and the places of methods in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...bench.plot import pyplot, save
from ...pruners import METHODS
from ..arms import FRAMES, FULL
from ..tables.rows import mean_tokens

__all__ = ["FULL_NAME", "GROUPS", "SMALL", "WIDTH", "Style", "named", "pyplot", "ran", "save", "styles", "tokens"]

WIDTH, SMALL = 11.0, 8  # inches and points
FULL_NAME = "unpruned"

PALETTE = (  # Okabe and Ito's, then those of Tol that are told from them
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#332288", "#999933", "#E83F6F",
    "#7A4B22",
)  # fmt: skip
MUTED = (("#777777", "X"), ("#222222", "P"), ("#A6761D", "v"), ("#AAAAAA", "<"), ("#6A7F8F", ">"), ("#B0A070", "p"))
"""Of the sanity baselines, random first: it is grey in all pictures."""
GROUPS = {
    "encoder": ("inside the encoder", "o"),
    "feature": ("between encoder and LLM", "s"),
    "decoder": ("inside the LLM", "D"),
    "sanity": ("sanity baselines", "X"),
}
"""Stage, its words and its marker; baselines are a group of their own, whatever their stage, and dashed."""
OTHER = "^hd8H*"  # of further arms of a method, told apart by label or settings


@dataclass(frozen=True)
class Style:
    """How a line of that name is drawn."""

    colour: str
    marker: str
    dash: str
    group: str


def group(method: str) -> str:
    """Return the group of a method of the registry, or of fewer frames."""
    if method == FRAMES or METHODS[method].source == "sanity baseline":
        return "sanity"
    stage = METHODS[method].stage
    return stage if stage in GROUPS else "encoder"


def _fixed() -> dict[str, Style]:
    found: dict[str, Style] = {}
    for method in (*METHODS, FRAMES):
        place = group(method)
        number = sum((style.group == "sanity") == (place == "sanity") for style in found.values())
        if place == "sanity":
            colour, marker = MUTED[number % len(MUTED)]
        else:
            colour, marker = PALETTE[number % len(PALETTE)], GROUPS[place][1]
        found[method] = Style(colour, marker, "--" if place == "sanity" else "-", place)
    return found


def styles(arms: Sequence[Mapping[str, Any]]) -> dict[str, Style]:
    """Return the style of each name among the summary's arms, in the order in which legends list them.

    A method looks the same in every picture. Arms with a name of their own are told apart by further markers.
    """
    fixed, found = _fixed(), {}
    names = {arm["name"]: arm["arm"]["method"] for arm in arms if arm["arm"]["method"] != FULL}
    labelled = 0
    for name, method in names.items():
        style = fixed[method]
        if name != method:
            colour = PALETTE[(1 + labelled) % len(PALETTE)]
            marker = OTHER[(labelled + labelled // len(PALETTE)) % len(OTHER)]
            style = Style(colour, marker, style.dash, style.group)
            labelled += 1
        found[name] = style
    order = [*GROUPS]
    registry = [*METHODS, FRAMES]
    return dict(sorted(found.items(), key=lambda one: (order.index(one[1].group), registry.index(names[one[0]]))))


def named(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a task's entries with the settings in the name wherever arms of one name differ in settings."""
    found = []
    for arm in arms:
        mine = arm["arm"]["settings"]
        others = [one["arm"]["settings"] for one in arms if one["name"] == arm["name"]]
        differ = [key for key in sorted(mine) if any(key not in one or one[key] != mine[key] for one in others)]
        told = ", ".join(f"{key}={mine[key]}" for key in differ)
        found.append({**arm, "name": f"{arm['name']} ({told})" if told else arm["name"]})
    return found


def ran(summary: Mapping[str, Any], task: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return a task's entry of the unpruned model, and those of the others that ran."""
    if task not in summary["tasks"]:
        raise ValueError(f"the summary has no task {task!r}: choose one of {', '.join(summary['tasks'])}")
    ran = [arm for arm in named(summary["tasks"][task]["arms"]) if arm["accuracy"] is not None]
    full = next((arm for arm in ran if arm["arm"]["method"] == FULL), None)
    rest = [arm for arm in ran if arm["arm"]["method"] != FULL and arm["tokens"] is not None]
    if not rest:
        raise ValueError(f"no method was measured on {task}: there is nothing to draw")
    return full, rest


def tokens(arm: Mapping[str, Any]) -> float:
    """Return an arm's visual tokens, the mean over those that enter each layer of the language model."""
    return mean_tokens(arm) or 0.0
