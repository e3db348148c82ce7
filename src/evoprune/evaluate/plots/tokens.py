"""Accuracy over visual tokens, a panel a group of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .style import FULL_NAME, GROUPS, SMALL, WIDTH, Style, pyplot, ran, save, styles, tokens

DODGE = 1.02  # factor between the places of two methods at one budget


def accuracy_by_tokens(summary: Mapping[str, Any], task: str, path: str | Path) -> None:
    """Write accuracy over visual tokens, a line a method with 95 % intervals, a panel a group of methods.

    Tokens are the mean over the layers of the language model, so that methods inside it stand where their cost is.

    Raises
    ------
    ValueError
        matplotlib is missing, no method was measured, or the path ends in no kind of picture.
    """
    full, arms = ran(summary, task)
    looks = styles(arms)
    groups = [name for name in GROUPS if any(style.group == name for style in looks.values())]
    floor = next((arm["name"] for arm in arms if arm["arm"]["method"] == "random"), None)
    plt = pyplot()
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH if columns > 1 else WIDTH / 2, 3.4 * rows), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes.flat, groups, strict=False):
        mine = [method for method, style in looks.items() if style.group == name]
        for number, method in enumerate(mine):
            aside = DODGE ** (number - (len(mine) - 1) / 2)
            _line(axis, [arm for arm in arms if arm["name"] == method], method, looks[method], aside)
        if floor and floor not in mine:  # what every other group has to beat
            _floor(axis, [arm for arm in arms if arm["name"] == floor], looks[floor])
        if full is not None:
            axis.axhline(full["accuracy"][0], color="black", linewidth=1, label=FULL_NAME, zorder=0)
        axis.set_title(GROUPS[name][0], loc="left", fontsize=SMALL + 2)
        axis.legend(*_in_order(axis, mine), loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=SMALL)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    _share(list(zip(axes.flat, groups, strict=False)), arms, None if full is None else full["tokens"])
    for axis in axes[:, 0]:
        axis.set_ylabel(f"accuracy, {task}")
    figure.supxlabel("visual tokens in the language model, mean over its layers", fontsize=SMALL + 2)
    save(plt, figure, path)


def _share(panels: Sequence[tuple[Any, str]], arms: Sequence[Mapping[str, Any]], full: float | None) -> None:
    """One scale for all panels but that of the baselines, some of which lie far below everything else."""
    whole = {round(full)} if full else set()
    outside = whole | {round(tokens(arm)) for arm in arms if not _inside(arm)}
    for axis, name in panels:
        inside = {round(tokens(arm)) for arm in arms if _inside(arm)}
        shown = _apart(whole | inside | outside, 1.25) if name == "decoder" else _apart(outside, 1.45)
        axis.set_xscale("log", base=2)
        axis.set_xticks(shown, [str(n) for n in shown])
        axis.minorticks_off()
    spans = [axis.get_xlim() for axis, _ in panels]
    ranges = [axis.get_ylim() for axis, name in panels if name != "sanity"]
    for axis, name in panels:
        right = max(high for _, high in spans)
        axis.set_xlim(min(low for low, _ in spans), max(right, 1.04 * full) if full else right)
        if name != "sanity":
            axis.set_ylim(min(low for low, _ in ranges), max(high for _, high in ranges))
        elif ranges:
            axis.set_title(f"{axis.get_title(loc='left')}, a scale of their own", loc="left", fontsize=SMALL + 2)


def _inside(arm: Mapping[str, Any]) -> bool:
    return len(set(arm["layers"])) > 1


def _line(axis: Any, arms: Sequence[Mapping[str, Any]], name: str, style: Style, aside: float) -> None:
    """A line with intervals, moved `aside` a little so that those of one budget do not cover each other."""
    x, value, low, high = _columns(arms)
    axis.errorbar(
        x * aside, value, yerr=[value - low, high - value], color=style.colour, marker=style.marker,
        linestyle=style.dash, linewidth=1.4, markersize=5, elinewidth=0.8, capsize=2, label=name,
    )  # fmt: skip


def _floor(axis: Any, arms: Sequence[Mapping[str, Any]], style: Style) -> None:
    x, value, low, high = _columns(arms)
    axis.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0, zorder=0)
    axis.plot(
        x, value, color=style.colour, marker=style.marker, linestyle=style.dash, linewidth=1.2, markersize=4,
        label=arms[0]["name"], zorder=1,
    )  # fmt: skip


def _columns(arms: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    found = sorted((tokens(arm), *arm["accuracy"]) for arm in arms)
    return [np.array(column) for column in zip(*found, strict=True)]


def _in_order(axis: Any, methods: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Handles and names of a legend: the panel's methods first."""
    handles, names = axis.get_legend_handles_labels()
    known = dict(zip(names, handles, strict=True))
    order = [*methods, *(name for name in names if name not in methods)]
    return [known[name] for name in order], order


def _apart(values: Iterable[int], factor: float) -> list[int]:
    """Values far enough from each other on a logarithmic axis to be labelled, from the largest down."""
    found: list[int] = []
    for value in sorted(values, reverse=True):
        if value > 0 and (not found or found[-1] / value >= factor):
            found.append(value)
    return found
