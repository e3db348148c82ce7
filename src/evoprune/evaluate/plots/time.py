"""Accuracy over measured time, and the front that no arm beats in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arms import Arm
from ..latency.times import inputs, of_task, ratio
from .style import FULL_NAME, SMALL, WIDTH, Style, group, pyplot, ran, save, styles


def accuracy_by_time(
    summary: Mapping[str, Any], latency: Mapping[str, Any] | None, task: str, path: str | Path
) -> None:
    """Write accuracy over the measured time to the first token, with the front that no other arm beats in both.

    Both are noisy, and so is the front: accuracies have 95 % intervals, times none.

    Raises
    ------
    ValueError
        matplotlib is missing, no arm has both, pictures were timed and the task shows videos (or back), or the path
        ends in no kind of picture.
    """
    full, arms = ran(summary, task)
    looks = styles(arms)
    if latency is not None and latency["runs"] and of_task(latency, task) is None:
        raise ValueError(f"{inputs(latency)} were timed, which {task} does not show: measure it in a folder of its own")
    points = [(shared, arm) for arm in arms if (shared := ratio(latency, Arm.from_dict(arm["arm"]), "overall"))]
    if not points:
        raise ValueError(f"no arm of {task} was timed: there is nothing to draw, measure with --latency")
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(WIDTH, 5.4), layout="constrained")
    for method, style in looks.items():
        _line(axis, [(share, arm["accuracy"]) for share, arm in points if arm["name"] == method], method, style)
    every = [(share, arm["accuracy"][0], _short(arm)) for share, arm in points]
    if full is not None:
        axis.plot([1.0], [full["accuracy"][0]], "*", color="black", markersize=11, label=FULL_NAME, linestyle="none")
        every.append((1.0, full["accuracy"][0], FULL_NAME))
    front = pareto(every)
    x, y = [one[0] for one in front], [one[1] for one in front]
    (step,) = axis.step(x, y, where="post", color="black", linewidth=1.2, zorder=0)
    texts = [
        axis.annotate(str(number), one[:2], xytext=(-3, 4), textcoords="offset points", ha="right", fontsize=SMALL)
        for number, one in enumerate(front, 1)
    ]
    _cut(axis, points, full)
    axis.set_xlabel("time to the first token, as a share of the unpruned model's")
    axis.set_ylabel(f"accuracy, {task}")
    _name(axis, step, front)
    _spread(figure, texts)
    save(plt, figure, path)


def _name(axis: Any, step: Any, front: Sequence[tuple[float, float, str]]) -> None:
    """Two legends: the methods, and the points of the front."""
    methods = axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL)
    named = [f"{number}  {one[2]}" for number, one in enumerate(front, 1)]
    blank = [axis.plot([], [], linestyle="none")[0] for _ in named]
    title = "no other is faster and better\n(noise moves this line too):"
    axis.legend(
        [step, *blank], [title, *named], loc="upper left", bbox_to_anchor=(1.18, 1.0), fontsize=SMALL,
        handlelength=1.2,
    )  # fmt: skip
    axis.add_artist(methods)


def _line(axis: Any, points: Sequence[tuple[float, Sequence[float]]], name: str, style: Style) -> None:
    """A method's points with intervals, budget by budget."""
    if not points:
        return
    x, values = [share for share, _ in points], [accuracy[0] for _, accuracy in points]
    apart = [[value - low for _, (value, low, _) in points], [high - value for _, (value, _, high) in points]]
    axis.errorbar(
        x, values, yerr=apart, color=style.colour, marker=style.marker, linestyle=style.dash, linewidth=0.6,
        elinewidth=0.5, capsize=0, markersize=6, markeredgecolor="white", markeredgewidth=0.5, label=name,
    )  # fmt: skip


def _cut(axis: Any, points: Sequence[tuple[float, Mapping[str, Any]]], full: Mapping[str, Any] | None) -> None:
    """End the axis below what methods and random reach, and say what lies there: baselines may fall far off."""
    arms = [arm for _, arm in points]
    near = [arm for arm in arms if group(arm["arm"]["method"]) != "sanity" or arm["arm"]["method"] == "random"] or arms
    values = [end for arm in [*near, *([] if full is None else [full])] for end in arm["accuracy"][1:]]
    margin = 0.06 * (max(values) - min(values)) or 0.01
    axis.set_ylim(min(values) - margin, max([*values, *(arm["accuracy"][2] for arm in arms)]) + margin)
    below = Counter(arm["name"] for arm in arms if arm["accuracy"][0] < min(values) - margin)
    if below:
        told = ", ".join(f"{number} of {name}" for name, number in below.items())
        words = "1 point is" if below.total() == 1 else f"{below.total()} points are"
        axis.text(
            0.99, 0.01, f"{words} below this axis and not shown: {told}", transform=axis.transAxes, ha="right",
            va="bottom", fontsize=SMALL,
        )  # fmt: skip


def pareto(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return the points (time, accuracy, name) that none beats in one and equals or beats in the other, by time."""
    front: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda one: (one[0], -one[1], one[2])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _short(arm: Mapping[str, Any]) -> str:
    keep = arm["arm"]["keep"]
    return f"{arm['name']} {f'{100 * keep:g} %' if isinstance(keep, float) else keep}"


def _spread(figure: Any, texts: Sequence[Any]) -> None:
    """Move labels up until none covers another."""
    figure.canvas.draw()
    placed: list[Any] = []
    for text in sorted(texts, key=lambda one: one.xy[1]):
        for _ in range(40):
            box = text.get_window_extent().expanded(1.05, 1.1)
            if not any(box.overlaps(other) for other in placed):
                break
            x, y = text.get_position()
            text.set_position((x, y + 3))
        placed.append(text.get_window_extent())
