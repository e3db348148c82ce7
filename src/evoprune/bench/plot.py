"""Pictures of results: where the time to the first token goes (as in the paper's Fig. 3), and how it grows with frames
(as in its Fig. 1). Needs matplotlib, which the extra ``plots`` brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .columns import NAMES, UNREAD, arm_name, time_unit
from .results import arms, bases, fair, label, ratio, value

# The colours of Okabe and Ito, which colour-blind readers tell apart; the selection is hatched besides.
PARTS = {
    "preprocess": ("preprocessing", "#999999", ""),
    "encoder": ("encoder", "#0072B2", ""),
    "selection": ("selection", "#56B4E9", "////"),
    "projector": ("projector and pooling", "#009E73", ""),
    "prefill": ("LLM prefill", "#E69F00", ""),
}
LINES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = "osD^vP*X"
WIDTH, BAR, FONT = 8.0, 0.3, 10  # inches and points: readable at the width of a README


def pyplot() -> Any:
    """matplotlib without a display; fixed salt and no date, so that equal results give equal files."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            "plots need matplotlib, which is not installed: pip install 'evoprune[plots]', or leave the plot out"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "svg.hashsalt": "evoprune", "font.size": FONT, "axes.spines.top": False, "axes.spines.right": False,
        "hatch.linewidth": 0.8, "figure.facecolor": "white", "legend.frameon": False, "path.simplify": False,
    })  # fmt: skip
    return pyplot


def save(plt: Any, figure: Any, path: str | Path) -> None:
    """Write a figure by the ending of `path`, and close it; ValueError for another ending than .svg, .png, .pdf."""
    path = Path(path)
    kind = path.suffix.lower()
    nothing = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}.get(kind)
    if nothing is None:
        raise ValueError(f"{path} has the ending {path.suffix!r}: a plot is .svg, .png or .pdf")
    figure.savefig(path, metadata=nothing, dpi=144, bbox_inches="tight")
    plt.close(figure)


def _many(results: dict[str, Any] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [results] if isinstance(results, dict) else list(results)


def _whole(arm: dict[str, Any]) -> str:
    """The stage that a bar adds up to: the first token, or what comes before the LLM."""
    return "ttft" if value(arm, "ttft") is not None else "pre_llm"


def stages(results: dict[str, Any] | Sequence[dict[str, Any]], path: str | Path) -> None:
    """Write stacked bars, one an arm, of the stages up to the first token; a panel a cell.

    Raises
    ------
    ValueError
        matplotlib is missing, no arm was measured, or the path ends in no kind of picture.
    """
    panels = [(result, cell) for result in _many(results) for cell in result["cells"] if _measured(cell)]
    if not panels:
        raise ValueError("no arm of this result was measured: there is nothing to draw")
    plt = pyplot()
    heights = [BAR * len(_measured(cell)) + 0.75 for _, cell in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(WIDTH, sum(heights) + 0.4), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, (result, cell) in zip(axes[:, 0], panels, strict=True):
        _bars(axis, result, cell)
    last = panels[-1][1]
    beside = f"; beside the bars: share of {UNREAD[list(bases(last))[-1]]}" if bases(last) else ""
    runs = f"median of {last['repeats']} runs" if last["repeats"] > 1 else "one run"
    axes[-1, 0].set_xlabel(f"{axes[-1, 0].get_xlabel()}, {runs}{beside}")
    handles = {text: handle for axis in axes[:, 0] for handle, text in zip(*axis.get_legend_handles_labels())}  # noqa: B905
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), columnspacing=1.2,
        handlelength=1.4, handletextpad=0.5,
    )  # fmt: skip
    save(plt, figure, path)


def _measured(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [arm for arm in cell["arms"] if not arm.get("error") and value(arm, "encoder") is not None]


def _bars(axis: Any, result: dict[str, Any], cell: dict[str, Any]) -> None:
    found, to = _measured(cell), fair(cell)
    totals = [value(arm, _whole(arm)) or 0.0 for arm in found]
    scale, unit = time_unit(max(totals))
    left = [0.0] * len(found)
    for part, (text, colour, hatch) in PARTS.items():
        widths = [_part(arm, part) * scale for arm in found]
        if any(widths):
            axis.barh(
                range(len(found)), widths, left=left, height=0.72, label=text, color=colour, hatch=hatch,
                edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, (arm, end) in enumerate(zip(found, left, strict=True)):
        times = ratio(arm, to, _whole(arm))
        axis.text(end, row, "" if times is None else f" {times:.2f}", va="center", fontsize=FONT - 1)
    axis.set_yticks(range(len(found)), [arm_name(arm) for arm in found])
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.margins(x=0.08)
    axis.set_xlim(left=0)
    axis.set_xlabel(unit)
    axis.set_title(f"{result['model']}, {label(cell)}, {result['dtype']}", loc="left", fontsize=FONT)


def _part(arm: dict[str, Any], part: str) -> float:
    """Seconds of a part of the bar; the encoder's without the selection, which is drawn beside it."""
    found = value(arm, part) or 0.0
    return found - (value(arm, "selection") or 0.0) if part == "encoder" else found


def frames(results: dict[str, Any] | Sequence[dict[str, Any]], path: str | Path, stage: str | None = None) -> None:
    """Write seconds over frames, a line an arm; `stage` is the first token where it was measured.

    Raises
    ------
    ValueError
        matplotlib is missing, fewer than two numbers of frames were measured, or the path ends in no kind of picture.
    """
    found = [(cell, arm) for result in _many(results) for cell, arm in arms(result) if cell.get("frames")]
    stage = stage or next((_whole(arm) for _, arm in found if not arm.get("error")), "ttft")
    lines: dict[str, dict[int, float]] = {}
    for cell, arm in found:
        seconds = value(arm, stage) if not arm.get("error") else None
        if seconds is not None:
            batch = f", batch {cell['batch']}" if cell["batch"] > 1 else ""
            lines.setdefault(arm_name(arm) + batch, {})[cell["frames"]] = seconds
    ticks = sorted({count for line in lines.values() for count in line})
    if len(ticks) < 2:
        raise ValueError(f"{len(ticks)} number(s) of frames measured: a scaling plot needs two, such as --frames 4,64")
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    scale, unit = time_unit(max(max(line.values()) for line in lines.values()))
    for number, (name, line) in enumerate(lines.items()):
        points = sorted(line.items())
        axis.plot(
            [x for x, _ in points], [y * scale for _, y in points], marker=MARKERS[number % len(MARKERS)],
            color=LINES[number % len(LINES)], label=name, linewidth=1.6, markersize=5,
        )  # fmt: skip
    axis.set_xticks(ticks)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("frames")
    axis.set_ylabel(f"{NAMES.get(stage, stage)}, {unit}")
    axis.legend(loc="upper left")
    save(plt, figure, path)
