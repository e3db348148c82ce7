"""Which cells make up EvoPrune's Tables 1 to 3 and Figure 4, on its models or, scaled, on an embedded one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...schedules import count
from ..arms import FULL, Arm, arms
from ..embedded.tasks import MODELS, TASKS
from . import numbers as printed
from .numbers import Key
from .tables import find


@dataclass(frozen=True)
class Line:
    """One arm of a table, and the paper's row that stands beside it, None for what the paper does not have."""

    arm: Arm
    key: Key | None


def embedded(model: str | None) -> str | None:
    """Return the task of an embedded model, None for other models."""
    return next((task for task, name in MODELS.items() if name == model), None)


def lines(
    table: str, model: str | None = None, *, settings: Mapping[str, Any] | None = None, sanity: bool = True
) -> list[Line]:
    """Return the arms of a table with the paper's rows beside them: unpruned, then budget by budget.

    Parameters
    ----------
    model
        None is the paper's. On an embedded model a budget is the same share of its tokens by the rounding of `keep`,
        and ``first:13`` of 26 layers is the same share of the layers that may merge.
    settings
        Given to each method that has such a setting; what makes a row what it is stays.
    sanity
        Add random, grid and down-sampled input, and fewer frames of a video, at every budget.
    """
    one = find(table)
    task = embedded(model)
    given = {**({} if task else one.settings), **(settings or {})}
    scale = _scale(model, printed.SIZES[table]) if model and task else None
    video = one.frames is not None if task is None else TASKS[task] == "video"
    found = [Line(Arm(FULL), (FULL, None))]
    for budget in one.budgets:
        keep = budget if scale is None else count(budget / printed.SIZES[table], scale[0])
        for variant in one.variants:
            own = {name: _scaled(value, scale) for name, value in variant.settings.items()}
            base = arms([variant.method], [keep], given | own, sanity=False)[-1]
            label = variant.label.replace(str(variant.settings.get("schedule")), str(own.get("schedule")))
            arm = Arm(base.method, keep, base.settings, label=label)
            found.append(Line(arm, (variant.key, budget)))
        found += [Line(arm, None) for arm in arms([], [keep], given, sanity=sanity, video=video)[1:]]
    return list({line.arm.slug: line for line in found}.values())


def cells(
    table: str, model: str | None = None, *, settings: Mapping[str, Any] | None = None, sanity: bool = True
) -> list[tuple[str, Arm]]:
    """Return task and arm of every cell of a table, as `sweep` runs them; see `lines`.

    Raises
    ------
    ValueError
        There is no such table, or a method refuses a setting.
    """
    task = embedded(model)
    if task is not None:
        names = [task]
    else:
        from ..catalogue import resolve

        names = list(resolve(find(table).tasks))
    listed = lines(table, model, settings=settings, sanity=sanity)
    return [(name, line.arm) for name in names for line in listed]


def _scale(model: str, paper: int) -> tuple[int, int]:
    """Tokens of an unpruned picture or frame of an embedded model, and the layers of its tower that may merge."""
    if embedded(model) == "tiny_clips":
        from ...tiny.video import folder
    else:
        from ...tiny import folder
    config = json.loads((folder() / "config.json").read_text(encoding="utf-8"))
    tower = config["vision_config"]
    side, layers = tower["image_size"] // tower["patch_size"], tower["num_hidden_layers"]
    pooled = (side + 1) // 2 if embedded(model) == "tiny_clips" else side  # frames of a video are pooled by two
    return pooled**2, layers + 1 + config["vision_feature_layer"]


def _scaled(value: Any, scale: tuple[int, int] | None) -> Any:
    """A schedule's number of layers, of as many layers as the model has; everything else as it is."""
    if scale is None or not isinstance(value, str):
        return value
    layers = re.fullmatch(r"(first|last):(\d+)", value)
    return f"{layers[1]}:{count(int(layers[2]) / printed.LAYERS, scale[1])}" if layers else value
