"""The page docs/choices.md, from results/choices.json and, for one section, schedules_every.json and launches.json."""

from __future__ import annotations

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from choices import BASELINES, HALF, KEEPS, LAYERS, SECOND, SECOND_ROUND, SEEDS, START, VARIATIONS, settings_of
from evoprune import flops
from evoprune.evaluate.statistics import Interval, paired
from evoprune.tiny import benchmark, build

TOKENS = 196
LAYERS_READ = 11  # of twelve: the last one feeds nothing
SHARES = ("1/4", "1/8", "1/16")


DECISIONS = (
    "## What was decided",
    "",
    "- **Positions.** Original positions are far ahead of contiguous ones, for EvoPrune as for random and grid:"
    " questions about corners fall when survivors are numbered anew, and stand when they are not. It stays an option"
    " for now, because some calls cannot carry it (embeddings that hold the features already, a new picture given"
    " with new ids alone) and engines that number tokens themselves cannot follow. Take `positions='original'`"
    " wherever nothing of this is needed: with it, and not without, the goal of 95 % at a quarter of the tokens is"
    " met.",
    "- **Proportional attention** is ahead in both rounds, by little. It stays off: its bias shuts out flash"
    " attention.",
    "- **Plain means** instead of size-weighted ones and **merging from layer 0 on** (`skip:0`) are ahead in both"
    " rounds, by too little for one small model to overrule the method; they are the first to try on real models.",
    "- **Schedules** that merge later are ahead and cost more; the mean schedule and the ToMe order are ahead in the"
    " first round and inside the interval in the second; a wider bandwidth is ahead in one of three values.",
    "- **Protection by attention and the diversity term**, the paper's two additions to similarity, make no"
    " difference that this benchmark can tell: without either, or both, the gap lies inside the interval. With ToMe's"
    " scores and proportional attention merging does at least as well here.",
    "- What is inside the interval or worse stays as it began, the paper's values among it.",
    "- **Random and grid at a quarter of the tokens.** Every patch of a digit knows the whole digit in this model,"
    " and 49 tokens on a grid leave no digit without a survivor (below): there is nothing left to win, and EvoPrune is"
    " level with the grid there. It is ahead of both where tokens get scarce. What it loses, it loses early: the same"
    " merge costs most in the first layers, before patches have told each other what they show.",
)


class Results:
    """Right answers of every cell, by split and settings."""

    def __init__(self, cells: list[dict[str, Any]]) -> None:
        self.examples = {split: benchmark.examples(split) for split in ("dev", "test")}  # type: ignore[arg-type]
        self.cells = {self._key(c["split"], c["settings"]): c for c in cells}

    @staticmethod
    def _key(split: str, settings: dict[str, Any] | None) -> str:
        return json.dumps([split, settings], sort_keys=True)

    def cell(self, split: str, settings: dict[str, Any] | None) -> dict[str, Any] | None:
        """The finished cell, None where it was not measured."""
        return self.cells.get(self._key(split, settings))

    def right(self, split: str, settings: dict[str, Any] | None) -> np.ndarray | None:
        """float (n,): 1 where the answer is right; None where the cell was not measured."""
        cell = self.cell(split, settings)
        if cell is None:
            return None
        bits = np.frombuffer(bytes.fromhex(cell["right"]), dtype=np.uint8)
        return np.unpackbits(bits)[: len(self.examples[split])].astype(float)

    def mean(self, split: str, group: list[dict[str, Any]], keep: int) -> np.ndarray | None:
        """The mean over a group's members (seeds) at one budget."""
        parts = [self.right(split, settings_of(changes, keep)) for changes in group]
        return None if any(part is None for part in parts) else np.mean(parts, axis=0)  # type: ignore[arg-type]

    def compare(self, split: str, mine: np.ndarray, theirs: np.ndarray, relative: bool) -> Interval:
        """Paired interval over scenes."""
        scenes = np.array([e.scene for e in self.examples[split]])
        return paired(mine, theirs, scenes, relative=relative)


def _words(changes: dict[str, Any]) -> str:
    return ", ".join(f"`{k}={v!r}`" for k, v in changes.items() if k != "method") or "as it begins"


def _accuracies(results: Results, split: str, group: list[dict[str, Any]]) -> list[str]:
    parts = [results.mean(split, group, keep) for keep in KEEPS]
    return ["not measured" if part is None else f"{part.mean():.3f}" for part in parts]


def _pooled(results: Results, split: str, group: list[dict[str, Any]]) -> np.ndarray | None:
    parts = [results.mean(split, group, keep) for keep in KEEPS]
    return None if any(part is None for part in parts) else np.mean(parts, axis=0)  # type: ignore[arg-type]


def _verdict(gap: Interval) -> str:
    if gap.low > 0:
        return "better"
    return "worse" if gap.high < 0 else "inside the interval"


def _flops(results: Results, changes: dict[str, Any]) -> str:
    """FLOPs of the tower's layers relative to the eleven unpruned ones, mean over the budgets, by the shape model."""
    ratios = []
    for keep in KEEPS:
        cell = results.cell("dev", settings_of(changes, keep))
        if cell is None:
            return ""
        left = [TOKENS, *cell["per_layer"]]
        merges = [before - after for before, after in pairwise(left)]
        sizes = (build.WIDTH, 2 * build.WIDTH, 1)
        ratios.append(flops.tower(TOKENS, merges, *sizes) / flops.tower(TOKENS, (0,) * len(merges), *sizes))
    return f"{np.mean(ratios):.3f}"


def search(results: Results, title: str, start: dict[str, Any], variations: list[dict[str, Any]]) -> list[str]:
    """One table: accuracy at three budgets and the paired gap to `start`, averaged over the budgets."""
    lines = [
        f"### {title}",
        "",
        f"| setting | {' | '.join(SHARES)} | gap to the start | verdict | tower FLOPs |",
        "|---|---|---|---|---|---|---|",
        f"| start | {' | '.join(_accuracies(results, 'dev', [start]))} | | | {_flops(results, start)} |",
    ]
    base = _pooled(results, "dev", [start])
    for changes in variations:
        mine = _pooled(results, "dev", [changes])
        told = "not measured | "
        if mine is not None and base is not None:
            gap = results.compare("dev", mine, base, relative=False)
            told = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] | {_verdict(gap)}"
        shown = {name: value for name, value in changes.items() if start.get(name) != value}
        cells = [_words(shown), *_accuracies(results, "dev", [changes]), told, _flops(results, changes)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def standing(results: Results, split: str, chosen: dict[str, Any]) -> list[str]:
    """The chosen defaults beside the sanity baselines: accuracy and relative accuracy with intervals."""
    full = results.right(split, None)
    if full is None:
        return ["not measured"]
    same = {"contiguous": chosen, "original": chosen | {"positions": "original"}}
    groups: dict[str, list[dict[str, Any]]] = {f"EvoPrune, {name} positions": [one] for name, one in same.items()}
    groups |= {f"{name}, contiguous positions" if "," not in name else name: g for name, g in BASELINES.items()}
    lines = [
        f"Unpruned: {full.mean():.3f} over {len(full)} questions.",
        "",
        "| method | kept | tokens | accuracy | relative accuracy | EvoPrune with the same positions ahead by |",
        "|---|---|---|---|---|---|",
    ]
    for keep, share in zip(KEEPS, SHARES, strict=True):
        for name, group in groups.items():
            mine = results.mean(split, group, keep)
            cell = results.cell(split, settings_of(group[0], keep))
            if mine is None or cell is None:
                lines.append(f"| {name} | {share} | | not measured | | |")
                continue
            label = f"{name} (mean of {len(SEEDS)} seeds)" if len(group) > 1 else name
            ahead = ""
            reference = results.mean(split, [same[group[0].get("positions", "contiguous")]], keep)
            if reference is not None and not name.startswith("EvoPrune"):
                gap = results.compare(split, reference, mine, relative=False)
                ahead = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
            relative = results.compare(split, mine, full, relative=True)
            lines.append(f"| {label} | {share} | {cell['tokens']} | {mine.mean():.3f} | {relative} | {ahead} |")
    return lines


def by_layer(results: Results) -> list[str]:
    """Accuracy where half of the tokens merge in one layer alone."""
    full = results.right("dev", None)
    if full is None:
        return ["not measured"]
    lines = [f"| merged after the attention of layer | relative accuracy at {HALF} tokens | glyphs covered | mixed |"]
    lines.append("|---|---|---|---|")
    for layer, changes in enumerate(LAYERS):
        settings = settings_of(changes, HALF)
        right, cell = results.right("dev", settings), results.cell("dev", settings)
        if right is None or cell is None:
            lines.append(f"| {layer} | not measured | | |")
            continue
        relative = results.compare("dev", right, full, relative=True)
        lines.append(f"| {layer} | {relative} | {cell['covered']:.3f} | {cell['mixed']:.3f} |")
    return lines


def fates(results: Results, chosen: dict[str, Any]) -> list[str]:
    """What became of the digits' patches, beside the accuracy that follows."""
    full = results.right("dev", None)
    if full is None:
        return ["not measured"]
    groups: dict[str, dict[str, Any]] = {"EvoPrune, chosen defaults": chosen, "EvoPrune, original positions": SECOND}
    groups |= {"without attention": {"attention": False}, "without diversity": {"diversity": 0.0}}
    groups |= {name: BASELINES[name][0] for name in ("random, original positions", "grid, original positions")}
    lines = ["| method | kept | glyphs covered | mixed survivors | relative accuracy |", "|---|---|---|---|---|"]
    for keep, share in zip(KEEPS, SHARES, strict=True):
        for name, changes in groups.items():
            settings = settings_of(changes, keep)
            right, cell = results.right("dev", settings), results.cell("dev", settings)
            if right is None or cell is None:
                lines.append(f"| {name} | {share} | not measured | | |")
            else:
                numbers = f"{cell['covered']:.3f} | {cell['mixed']:.3f} | {right.mean() / full.mean():.3f}"
                lines.append(f"| {name} | {share} | {numbers} |")
    return lines


def kinds(results: Results, split: str, chosen: dict[str, Any]) -> list[str]:
    """Accuracy per kind of question."""
    names = np.array([e.kind for e in results.examples[split]])
    found = {"unpruned": results.right(split, None)}
    original = chosen | {"positions": "original"}
    for title, group in (("EvoPrune", [chosen]), ("original", [original]), ("random", BASELINES["random"])):
        for keep, share in zip(KEEPS, SHARES, strict=True):
            found[f"{title} {share}"] = results.mean(split, group, keep)
    lines = [f"| kind | questions | {' | '.join(found)} |", "|---" * (len(found) + 2) + "|"]
    for kind in benchmark.questions.KINDS:
        here = names == kind
        cells = ["not measured" if part is None else f"{part[here].mean():.3f}" for part in found.values()]
        lines.append(f"| {kind} | {here.sum()} | {' | '.join(cells)} |")
    return lines


FEWER = (
    "Merging at fewer layers is fewer kernels to launch, but each merge takes more at once, and at most half. What the"
    " tables below say:",
    "",
    "- A budget of at least twice the least that a schedule reaches costs no accuracy that this benchmark can tell:"
    " `every:3` at half and a quarter of the tokens, `every:4` at half. At the least itself, where every merging layer"
    " halves what it gets, it is worse as soon as there are several.",
    "- At real depth the same rule would allow `every:4` at all budgets of the CLIP tower but the smallest: 5 merging"
    " layers for 11, about 0.6 of the operations, and no more FLOPs than 1 % above those of `skip`. That it holds there"
    " is not measured: `skip` stays the default.",
    "",
)


def fewer(folder: Path) -> list[str]:
    """Schedules of equal budget that merge at fewer layers: accuracy, and the launches and FLOPs at real size."""
    measured, counted = (folder / f"{name}.json" for name in ("schedules_every", "launches"))
    if not (measured.exists() and counted.exists()):
        return ["not measured", ""]
    return [*FEWER, *_schedules(json.loads(measured.read_text())), "", *_launches(json.loads(counted.read_text()))]


def _schedules(data: dict[str, Any]) -> list[str]:
    results, made = Results(data["cells"]), data["manifest"]
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in data["cells"]:
        settings = cell["settings"]
        row = rows.setdefault((settings["positions"], settings["schedule"]), [])
        row.append(f"{cell['least']} is the least" if "least" in cell else _beside_skip(results, settings))
    keeps = list(dict.fromkeys(cell["settings"]["keep"] for cell in data["cells"]))
    lines = [
        f"Embedded model, dev split, `benchmarks/schedules_every.py` on {made['device']}, torch"
        f" {made['packages']['torch']}. Accuracy at four budgets of {TOKENS} tokens, and the gap to `skip` at the same"
        " budget and positions.",
        "",
        f"| positions | schedule | {' | '.join(map(str, keeps))} |",
        "|---" * (len(keeps) + 2) + "|",
    ]
    return [*lines, *(f"| {start[0]} | `{start[1]}` | {' | '.join(cells)} |" for start, cells in rows.items())]


def _beside_skip(results: Results, settings: dict[str, Any]) -> str:
    mine, base = (results.right("dev", settings | more) for more in ({}, {"schedule": "skip"}))
    if mine is None or base is None:
        return "not measured"
    if settings["schedule"] == "skip":
        return f"{mine.mean():.3f}"
    gap = results.compare("dev", mine, base, relative=False)
    verdict = _verdict(gap).removeprefix("inside the interval")
    return f"{mine.mean():.3f} ({gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]) {verdict}".rstrip()


def _launches(data: dict[str, Any]) -> list[str]:
    lines = [
        f"{data['what']} `benchmarks/launches.py`; torch {data['manifest']['packages']['torch']}.",
        "",
        "| arm | layers that merge | operations | without views | to native | kernels on a GPU |",
        "|---|---|---|---|---|---|",
    ]
    for arm in data["arms"]:
        counts = [arm["merging"], arm["operations"], arm["computing"], f"{arm['to_native']:.2f}"]
        kernels = "not measured" if arm["kernels"] is None else arm["kernels"]
        lines.append(f"| {' | '.join(map(str, [arm['name'], *counts, kernels]))} |")
    towers = list(dict.fromkeys(row["tower"] for row in data["flops"]))
    for tower in towers:
        rows = [row for row in data["flops"] if row["tower"] == tower]
        keeps = list(dict.fromkeys(row["keep"] for row in rows))
        told = (
            "FLOPs to those of the same layers unpruned and, in brackets, what the selection adds, by the shape model"
        )
        lines += ["", f"{tower}: {told}:", ""]
        lines += [f"| schedule | {' | '.join(map(str, keeps))} |", "|---" * (len(keeps) + 1) + "|"]
        for schedule in dict.fromkeys(row["schedule"] for row in rows):
            cells = [_ratio(row) for row in rows if row["schedule"] == schedule]
            lines.append(f"| `{schedule}` | {' | '.join(cells)} |")
    return [*lines, ""]


def _ratio(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return f"out of reach: {row['least']} is the least"
    return f"{row['ratio']:.3f} (+{row['selection']:.3f}), {row['merging']} layers"


def page(data: dict[str, Any]) -> str:
    """The whole page."""
    results, chosen, made = Results(data["cells"]), data["chosen"], data["manifest"]
    changed = {k: v for k, v in chosen.items() if k not in ("method", "keep") and v != START.get(k)}
    decided = (
        f"The defaults differ from the starting point in {_words(changed)}."
        if changed
        else "The defaults are the starting point: no setting was changed."
    )
    lines = [
        "# The defaults, decided by measurement",
        "",
        "Generated by `benchmarks/choices.py` from `benchmarks/results/choices.json`; do not edit by hand.",
        "",
        f"Embedded model, {len(results.examples['dev'])} dev questions about {benchmark.SCENES} scenes; 196 visual"
        f" tokens cut to {', '.join(str(k) for k in KEEPS)}. float32 on {made['device']}, torch"
        f" {made['packages']['torch']}, transformers {made['packages']['transformers']}, commit"
        f" {str(made['commit'])[:12]}. Intervals are 95 % paired bootstraps that resample scenes. The gap is that of"
        " the accuracy averaged over the three budgets, in shares of all questions.",
        "",
        "A verdict says on which side of zero the interval of the gap lies; nothing is corrected for the number of"
        " comparisons, and dev chooses what test then judges. " + decided,
        "",
        *DECISIONS,
        "",
        "## The search (dev)",
        "",
        *chain.from_iterable(search(results, title, {}, group) for title, group in VARIATIONS.items()),
        f"### Second round, from {_words(SECOND)} on",
        "",
        *search(results, "", SECOND, SECOND_ROUND)[2:],
        "## Beside the sanity baselines (dev)",
        "",
        *standing(results, "dev", chosen),
        "",
        "## Fewer merging layers (dev)",
        "",
        *fewer(Path(__file__).with_name("results")),
        "## What is lost where (dev)",
        "",
        "Half of the tokens merged at once, in one layer alone and none elsewhere:",
        "",
        *by_layer(results),
        "",
        "A glyph is covered where some survivor stands mostly on that glyph's own ink; a survivor is mixed where it"
        " stands for ink of two glyphs.",
        "",
        *fates(results, chosen),
        "",
        "## The final table (test)",
        "",
        "The test split was read for this table only.",
        "",
        *standing(results, "test", chosen),
        "",
        "## By kind of question (test)",
        "",
        "EvoPrune with contiguous and with original positions, and random dropping (contiguous, mean of the seeds).",
        "",
        *kinds(results, "test", chosen),
        "",
    ]
    return "\n".join(lines)
