"""Writes docs/performance.md and its plots from the result files in benchmarks/results/bench, and from nothing else.

    python benchmarks/report.py

What stands between the page's markers is generated; the rest is written by hand. What has no result file is said to be
not measured.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from readme import updated  # noqa: E402

from evoprune.bench.columns import UNREAD, columns, facts, remarks, schedule, selected, short, time_unit  # noqa: E402
from evoprune.bench.results import CLOCKS, FORMAT, bases, check, clock, fair, label, ratio, value  # noqa: E402
from goals import GOALS, judge, mode_of, peers  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "bench"
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
PROFILE, GPU_RUN = "evoprune.profile/1", "evoprune.gpu/1"
Results = dict[str, dict[str, Any]]


def read(folder: Path = RESULTS) -> dict[str, Results]:
    """Return the result files of `folder` by format and name; files of other formats are left alone."""
    found: dict[str, Results] = {FORMAT: {}, PROFILE: {}, GPU_RUN: {}}
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        kind = data.get("format") if isinstance(data, dict) else None
        if str(kind).startswith("evoprune.bench/"):
            check(data, str(path))
        if kind in found:
            found[kind][path.stem] = data
    return found


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def made(data: dict[str, Any]) -> str:
    """Return with what and where a result was made."""
    facts = data["manifest"]
    packages = {name: version for name, version in facts["packages"].items() if version}
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "triton") if name in packages)
    known = f"commit {facts['commit'][:12]}" if facts.get("commit") else "commit unknown"
    commit = f"{known}{' with changes' if facts.get('changed') else ''}"
    return f"{facts['device']}, {versions}, {commit}, {str(facts['time'])[:10]}"


def command(data: dict[str, Any]) -> str:
    """Return the command that made a result, files in it by their names alone."""
    line = re.sub(r"(?<![^\s=])/\S*/", "", data.get("command") or data["manifest"]["command"])
    return re.sub(r"^__main__\.py(?= bench )", "evoprune", line)  # how `python -m evoprune` sees itself


def goals(results: Results) -> list[str]:
    """The table of goals: what was measured, or that it was not."""
    rows = []
    for goal in GOALS:
        found = judge(goal, results)
        source = f"[{found.file}](#{anchor(found.file)})" if found.file else "[not yet](#do-it-again)"
        rows.append([goal.case, goal.text, found.measured, found.verdict, source])
    return table(["Case", "Goal", "Measured", "Verdict", "From"], rows)


def anchor(name: str) -> str:
    """Return where GitHub puts the heading of a file's section."""
    return re.sub(r"[^\w-]", "", name.lower().replace(" ", "-"))


def side_by_side(results: Results) -> list[str]:
    """Methods of one run beside each other at equal counts: pre-LLM time over FLOP ratio, and the selection's share."""
    lines: list[str] = []
    for name, result in results.items():
        for cell in result["cells"]:
            found, to = peers(cell), fair(cell)
            if len(found) < 2 or to is None:
                continue
            keeps = sorted({keep for arms in found.values() for keep in arms}, reverse=True)
            by = clock(result, to)
            rows = [
                [f"`{method}`", *(_peer(arms.get(keep), to, by) for keep in keeps)] for method, arms in found.items()
            ]
            kind = UNREAD[list(bases(cell))[-1]]
            lines += [
                f"**{result['model']}, {label(cell)}, {result['dtype']}** ([{name}](#{anchor(name)})): {CLOCKS[by]}"
                f" of encoder and projector to {kind}, the FLOP ratio in brackets, and the selection's share of the"
                " encoder:",
                "",
                *table(["method", *(f"{keep} kept" for keep in keeps)], rows),
                "",
            ]
    return lines[:-1] or ["Not measured."]


def _peer(arm: dict[str, Any] | None, to: dict[str, Any], by: Literal["seconds", "cpu_seconds"]) -> str:
    times = None if arm is None else ratio(arm, to, "pre_llm", by)
    if arm is None or times is None:
        return ""
    flops, share = ratio(arm, to, "pre_llm", "flops"), selected(arm)
    text = f"{times:.3f}" + ("" if flops is None else f" ({flops:.3f})")
    return text if share is None else f"{text}, {share:.1%}"


def modes(results: Results) -> list[str]:
    """One picture: how the tower's mode changes the time before the LLM; batches beside it."""
    rows = []
    for name, result in results.items():
        for cell in result["cells"]:
            to = fair(cell)
            if cell.get("images") is None or to is None or result["model"] != "llava-1.5-7b":
                continue
            for arm in cell["arms"]:
                seconds = value(arm, "pre_llm") if not arm.get("error") else None
                if seconds is None or (arm["kind"] == "pruned" and arm["path"] != "fast"):
                    continue
                scale, unit = time_unit(seconds)
                rows.append([
                    str(result["device"]), result["dtype"], str(cell["batch"]), f"`{arm['name']}`",
                    schedule(arm) if arm["kind"] == "pruned" else "", mode_of(arm),
                    f"{short(seconds * scale)} {unit}",
                    f"{ratio(arm, to, 'pre_llm'):.3f}", _three(ratio(arm, to, "pre_llm", "flops")),
                    f"[{name}](#{anchor(name)})",
                ])  # fmt: skip
    headings = ["device", "type", "batch", "arm", "schedule", "encoder mode", "pre-LLM", "ratio", "FLOP ratio", "from"]
    return table(headings, rows) if rows else ["Not measured."]


def launches(path: Path) -> list[str]:
    """What there is to launch in one forward, from the result of benchmarks/launches.py."""
    if not path.exists():
        return ["Launches: not measured."]
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [arm["name"], str(arm["merging"]), str(arm["operations"]), str(arm["computing"]), _three(arm["to_native"])]
        for arm in data["arms"]
    ]
    headings = ["arm", "merging layers", "operations", "of them computing", "ratio of these"]
    return [data["what"], "", *table(headings, rows), "", f"{made(data)}."]


def _three(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def profiles(found: Results) -> list[str]:
    """Where the tower's time goes by parts, an arm a column."""
    lines: list[str] = []
    for data in found.values():
        arms = data["arms"]
        parts = list(dict.fromkeys(row["part"] for rows in arms.values() for row in rows))
        by = {arm: {row["part"]: row for row in rows} for arm, rows in arms.items()}
        rows = [[part, *(_profiled(by[arm].get(part)) for arm in arms)] for part in parts]
        total = ["all", *(f"{sum(row['seconds'] for row in rows_):.3f} s" for rows_ in arms.values())]
        lines += [f"**{data['model']}**", "", *table(["part", *arms], [*rows, total]), ""]
        lines += [f"`{command(data)}`; {made(data)}.", ""]
    return lines[:-1] or ["Not measured."]


def _profiled(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['seconds']:.3f} s ({row['share']:.1%})"


def kernels(found: Results) -> list[str]:
    """What the kernels' tests said on a GPU, and what came of the other steps of gpu.sh."""
    lines: list[str] = []
    for data in found.values():
        rows = [[s["name"], f"{s['seconds']:.0f} of {s['budget']} s", s["outcome"]] for s in data["steps"]]
        lines += [f"{made(data)}; {data.get('gpu') or 'no nvidia-smi'}:", ""]
        lines += [*table(["Step", "Time", "Outcome"], rows), ""]
    return lines[:-1] or ["Not measured: the kernels have not run on a GPU in these files."]


def sections(results: Results) -> list[str]:
    """Every result file in full: what made it, its tables, its plots."""
    lines: list[str] = []
    for name, result in results.items():
        lines += [f"### {name}", "", f"    {command(result)}", "", f"{made(result)}.", ""]
        for cell in result["cells"]:
            lines += [f"**{result['model']}, {label(cell)}**: {facts(result, cell)}.", ""]
            lines += _cell(result, cell)
        lines += [line for kind in plots(result) for line in (f"![{name}: {kind}](performance/{name}-{kind}.svg)", "")]
    return lines[:-1] or ["Not measured."]


def _cell(result: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    told = [f"- {remark}" for remark in remarks(result, cell)]
    found = columns(result, cell)
    if not found:
        return [*told, ""]
    names, ratios = found[0], list(dict.fromkeys(c.group for c in found if c.group.startswith("ratio")))
    lines = []
    for group in (None, *ratios):
        chosen = [c for c in found[1:] if (c.group == group if group else c.group not in ratios)]
        headings = [group.replace("ratio to", "×:") if group else "arm", *(column.heading for column in chosen)]
        rows = [list(row) for row in zip(names.cells, *(column.cells for column in chosen), strict=True)]
        lines += [*table(headings, rows), ""]
    return [*lines, *told, *[""] * bool(told)]


def plots(result: dict[str, Any]) -> list[str]:
    """Return which plots a result has: bars always, the scaling where several numbers of frames were measured."""
    drawn = [cell for cell in result["cells"] if any(not arm.get("error") for arm in cell["arms"])]
    return ["stages"] * bool(drawn) + ["frames"] * (len({cell.get("frames") for cell in drawn} - {None}) > 1)


def draw(results: Results) -> None:
    """Write the plots anew; of a sweep over frames the bars show the longest clip."""
    from evoprune.bench import plot

    PLOTS.mkdir(exist_ok=True)
    for old in PLOTS.glob("*.svg"):
        old.unlink()
    for name, result in results.items():
        if "frames" in plots(result):
            plot.frames(result, PLOTS / f"{name}-frames.svg")
            longest = max(cell["frames"] or 0 for cell in result["cells"])
            result = {**result, "cells": [cell for cell in result["cells"] if cell["frames"] == longest]}
        if plots(result):
            plot.stages(result, PLOTS / f"{name}-stages.svg")


def page(text: str, folder: Path = RESULTS) -> str:
    """Return the page with its generated blocks made from the files in `folder`."""
    found = read(folder)
    results = found[FORMAT]
    blocks = {
        "goals": goals(results),
        "peers": side_by_side(results),
        "modes": modes(results),
        "launches": launches(folder.parent / "launches.json"),
        "profile": profiles(found[PROFILE]),
        "kernels": kernels(found[GPU_RUN]),
        "results": sections(results),
    }
    for name, lines in blocks.items():
        text = updated(text, name, "\n".join(lines))
    return text


def main() -> None:
    """Write the page and its plots, and say what is still open."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    results = read()[FORMAT]
    draw(results)
    verdicts = Counter(judge(goal, results).verdict for goal in GOALS)
    print(f"{PAGE.relative_to(ROOT)}: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}")


if __name__ == "__main__":
    main()
