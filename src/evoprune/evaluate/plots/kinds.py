"""What each kind of question loses with each method, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .style import SMALL, pyplot, ran, save, styles


def change_by_kind(summary: Mapping[str, Any], task: str, keep: int | float, path: str | Path) -> None:
    """Write how far accuracy moves from the unpruned model's, by kind of question and method, at one budget.

    Raises
    ------
    ValueError
        matplotlib is missing, the task has no kinds, nothing was measured at this budget, or the path ends in no
        kind of picture.
    """
    full, arms = ran(summary, task)
    arms = [arm for arm in arms if repr(arm["arm"]["keep"]) == repr(keep)]
    kinds = [] if full is None else list(full["kinds"])
    if full is None or not kinds or not arms:
        raise ValueError(f"{task} has no kinds of questions, or nothing at keep={keep}: there is no heat map to draw")
    looks = styles(arms)
    rows = [next(arm for arm in arms if arm["name"] == name) for name in looks]
    change = np.array([[100 * (arm["kinds"][kind][0] - full["kinds"][kind][0]) for kind in kinds] for arm in rows])
    plt = pyplot()
    figure, axis = plt.subplots(
        figsize=(max(5.4, 2.4 + 0.86 * len(kinds)), max(3.4, 1.5 + 0.3 * len(rows))), layout="constrained"
    )
    reach = max(1.0, float(np.abs(change).max()))
    image = axis.imshow(change, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
    for row, column in np.ndindex(*change.shape):
        value = float(change[row, column])
        axis.text(
            column, row, f"{value + 0.0:+.0f}" if abs(value) >= 0.5 else "0", ha="center", va="center", fontsize=SMALL,
            color="white" if abs(value) > 0.6 * reach else "black",
        )  # fmt: skip
    for row in range(1, len(rows)):
        if looks[rows[row]["name"]].group != looks[rows[row - 1]["name"]].group:
            axis.axhline(row - 0.5, color="black", linewidth=1)
    axis.set_xticks(
        range(len(kinds)),
        [f"{kind.replace('_', ' ')}\n{full['kinds'][kind][0]:.2f}\nn = {full['kinds'][kind][1]}" for kind in kinds],
        fontsize=SMALL,
    )
    axis.set_yticks(range(len(rows)), list(looks), fontsize=SMALL + 1)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    bar = figure.colorbar(image, ax=axis, fraction=0.04)
    bar.set_label("accuracy less the\nunpruned model's, points", fontsize=SMALL)
    axis.set_xlabel(
        f"kind of question, the unpruned model's accuracy, and number of questions\n{_noise(kinds, full)}",
        fontsize=SMALL,
    )
    save(plt, figure, path)


def _noise(kinds: Sequence[str], full: Mapping[str, Any]) -> str:
    """How far chance alone moves an accuracy: a binomial's 95 % at one half, where it is widest."""
    fewest = min(full["kinds"][kind][1] for kind in kinds)
    points = 100 * 1.96 * (0.25 / fewest) ** 0.5 if fewest else 100.0
    return f"noise: an accuracy over n = {fewest} questions moves by up to ±{points:.0f} points (95 %)"
