"""The measured part of README.md, from the result files in benchmarks/results alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGETS = (0.85, 0.95)  # test accuracy, and its share that random dropping of half the tokens should leave
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "docs")]

from results import COMMANDS, CORRECTED, MARKED, Result, conditions, load, made, overview  # noqa: E402


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _made(facts: dict[str, Any]) -> str:
    packages, changed = facts["packages"], " with changes" if facts.get("changed") else ""
    return (
        f"{facts['device']}, {facts['threads']} thread, torch {packages['torch']}, transformers"
        f" {packages['transformers']}, commit {str(facts['commit'])[:12]}{changed}"
    )


def _model(data: dict[str, Any]) -> list[str]:
    runs = data["runs"]

    def half(positions: str) -> str:
        members = [run for name, run in runs.items() if name.endswith(f"{positions} positions")]
        return f"{sum(run['relative'][0] for run in members) / len(members):.3f}"

    return [
        f"**The embedded model** ({data['parameters'] / 1e6:.2f} M parameters, {data['weight_bytes'] / 1e6:.1f} MB;"
        f" {data['manifest']['questions']} test questions): accuracy {runs['full']['accuracy']:.3f}; without the"
        f" picture {runs['blind']['accuracy']:.3f}. Dropping a random half of the tokens after the encoder leaves"
        f" {half('contiguous')} of the accuracy with contiguous positions and {half('original')} with original ones"
        f" (mean of 3 seeds). Its targets are {TARGETS[0]} and {TARGETS[1]}; how it was made:"
        " [docs/embedded-model.md](docs/embedded-model.md).",
    ]


KINDS = {
    "moves_left": "moves left",
    "first": "first",
    "crossed": "crossed",
    "last_colour": "last colour",
    "still": "still",
}
FLOORS = {
    "full": "the clip", "blind": "without the clip", "commonest answers": "commonest answers",
    "frame 4 alone": "middle frame alone", "middle frame eight times": "middle frame eight times",
    "reader of frame 4": "reader of the middle frame, without error",
}  # fmt: skip


def _video(data: dict[str, Any]) -> list[str]:
    runs = data["runs"]
    return [
        f"**The embedded video model** ({data['parameters'] / 1e6:.2f} M parameters,"
        f" {data['weight_bytes'] / 1e6:.1f} MB;"
        f" {data['manifest']['questions']} test questions about {data['manifest']['clips']} clips): accuracy"
        f" {runs['full']['accuracy']:.3f}; without the clip {runs['blind']['accuracy']:.3f}, with its middle frame"
        f" alone {runs['frame 4 alone']['accuracy']:.3f}. How it was made, and by kind of question:"
        " [docs/embedded-video-model.md](docs/embedded-video-model.md).",
        "",
        *pruned_clips(data),
    ]


def video_kinds(data: dict[str, Any]) -> list[str]:
    """Accuracy by kind of question, and its floors, as a table."""
    rows = [f"| | all | {' | '.join(KINDS.values())} |", f"|---|---|{'---|' * len(KINDS)}"]
    for name, label in FLOORS.items():
        found = data["runs"][name]
        cells = [found["accuracy"], *(found["by_kind"][kind] for kind in KINDS)]
        rows.append(f"| {label} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    best = {
        kind: max(run["by_kind"][kind] for name, run in data["runs"].items() if name.startswith("reader of"))
        for kind in KINDS
    }
    rows.append(f"| reader of the best frame for the kind | | {' | '.join(f'{best[kind]:.3f}' for kind in KINDS)} |")
    return rows


def _ahead(data: dict[str, Any], name: str, run: dict[str, Any]) -> str:
    """EvoPrune's accuracy minus this method's on the same questions, share and positions, resampled by clip."""
    import numpy as np

    from evoprune.evaluate.statistics import paired

    method = name.removeprefix("apply: ").split(",")[0]
    rival = data["runs"].get(name.replace(method, "evoprune", 1), {})
    if method == "evoprune" or "right" not in rival or "right" not in run:
        return ""
    mine, other = (np.array([float(r) for r in one["right"]]) for one in (rival, run))
    gap = paired(mine, other, np.array(data["clip_of_question"]), relative=False)
    return f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


def pruned_clips(data: dict[str, Any]) -> list[str]:
    """Accuracy with pruners applied, beside the sanity baselines at equal shares; only what was run."""
    cells = [(name, run) for name, run in data["runs"].items() if name.startswith("apply: ")]
    if not cells:
        return ["Accuracy with pruned frames: not measured."]
    rows = [
        "| pruned frames | visual tokens | accuracy | relative accuracy | EvoPrune ahead by |",
        "|---|---|---|---|---|",
    ]
    for name, run in sorted(cells, key=lambda cell: (-cell[1]["visual_tokens"], cell[0])):
        value, low, high = run["relative"]
        label = name.removeprefix("apply: ")
        rows.append(
            f"| {label} | {run['visual_tokens']} | {run['accuracy']:.3f} | {value:.3f} [{low:.3f}, {high:.3f}] |"
            f" {_ahead(data, name, run)} |"
        )
    whole, half = data["runs"]["all 100 whole patches"], "random 12 of 25 pooled tokens"
    kept = [run["relative"][0] for name, run in data["runs"].items() if half in name and "original" in name]
    return [
        *rows,
        "",
        "Random is seed 0. Pruned frames are not pooled, and this model saw whole patches only in prompts of two or"
        " three pictures: all"
        f" 100 patches of each frame, nothing dropped, leave {whole['relative'][0]:.3f} of its accuracy. So these rows"
        " compare methods with each other, and say little of what pruning costs a model that has seen both. A random"
        f" 12 of the 25 pooled tokens leave {sum(kept) / len(kept):.3f} (original positions, mean of 3 seeds; the aim"
        " was 0.95).",
        "",
        f"Measured with {_made(data['manifest'])}; 95 % intervals over clips.",
    ]


def _choices(data: dict[str, Any]) -> list[str]:
    from choices_report import Results, standing

    return [
        "**Accuracy on the embedded benchmark**, test split, with 95 % paired intervals over scenes:",
        "",
        *standing(Results(data["cells"]), "test", data["chosen"]),
        "",
        f"Measured with {_made(data['manifest'])}.",
    ]


SPEED = {
    "cpu_siglip_float32.json": "SigLIP so400m-384, the encoder of video models, in float32",
    "cpu_siglip_bfloat16.json": "SigLIP so400m-384 in bfloat16",
    "cpu_clip_float32.json": "CLIP-L/336, the encoder of LLaVA-1.5, in float32",
}
"""Results of `evoprune bench` on a CPU, in benchmarks/results/bench."""


def _speed() -> list[str]:
    """The encoders' time on a CPU, by the clock that the goals are judged by."""
    found = {name: data for name in SPEED if (data := _read(f"bench/{name}")) is not None}
    if not found:
        return ["**The encoder's clock on a CPU**: not measured."]
    lines = ["**The encoder's clock on a CPU**, real size, random weights; every figure: [docs/performance.md]"
             "(docs/performance.md).", ""]  # fmt: skip
    for name, data in found.items():
        for cell in data["cells"]:
            lines += [*_clocked(SPEED[name], data, cell), ""]
    return [*lines, f"{_made(next(iter(found.values()))['manifest'])}."]


def _clocked(title: str, data: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    from evoprune.bench.columns import UNREAD, arm_name
    from evoprune.bench.results import CLOCKS, bases, clock, fair, label, overhead, ratio, value

    to = fair(cell)
    if to is None:
        return [f"{title}: not measured."]
    by = clock(data, to)
    lines = [
        f"{title}, {label(cell)}: {CLOCKS[by]} of the encoder, median of {cell['repeats']} interleaved runs, to"
        f" {UNREAD[list(bases(cell))[-1]]}:",
        "",
        "| arm | seconds | time ratio | FLOP ratio | time / FLOP |",
        "|---|---|---|---|---|",
    ]
    for arm in cell["arms"]:
        if not arm.get("error"):
            figures = (
                f"{number:.3f}"
                for number in (
                    value(arm, "encoder", by), ratio(arm, to, "encoder", by), ratio(arm, to, "encoder", "tower_flops"),
                    overhead(arm, to, "encoder", by),
                )
            )  # fmt: skip
            lines.append(f"| {arm_name(arm)} | {' | '.join(figures)} |")
    return lines


def _everything(result: Result) -> list[str]:
    """All methods beside each other on one embedded benchmark, from its folder of results."""
    entry = result.summary["tasks"][result.task]
    what = "embedded benchmark" if result.task == "tiny_scenes" else "embedded video benchmark"
    told = conditions(result)
    return [
        f"**All methods on the {what}**, {entry['questions']} questions{told and f', {told}'}: accuracy relative to the"
        f" unpruned model by the share of tokens kept; {MARKED}, {CORRECTED}. Methods inside the LLM let all tokens"
        " into its first layers, so that equal shares are not equal costs. Overall time is to the first token, to that"
        " of the unpruned model. Counts, intervals, ranks, pictures: [docs/results.md](docs/results.md).",
        "",
        *overview(result),
        "",
        made(result),
    ]


def methods_page() -> dict[str, str]:
    """The measured parts of docs/methods.md, by the name of their block."""
    from greedy_report import selections

    found = load("tiny_scenes")
    data = _read("greedy.json")
    return {
        "results": "Not measured." if found is None else "\n".join([*overview(found), "", made(found)]),
        "selections": "Not measured."
        if data is None
        else "\n".join([*selections(data), "", f"Measured with {_made(data['manifest'])}."]),
    }


def video_page() -> str:
    """The generated part of docs/embedded-video-model.md."""
    data = _read("tiny_video.json")
    return "Not measured." if data is None else "\n".join([*video_kinds(data), "", *pruned_clips(data)])


def block() -> str:
    """The Markdown between the markers; what has no result file is said to be not measured."""
    parts = {
        "The embedded model": ("tiny_model.json", _model),
        "Accuracy on the embedded benchmark": ("choices.json", _choices),
        "The embedded video model": ("tiny_video.json", _video),
    }
    lines: list[str] = []
    for title, (name, write) in parts.items():
        data = _read(name)
        lines += [f"**{title}**: not measured."] if data is None else write(data)
        lines.append("")
    for task in COMMANDS:
        found = load(task)
        lines += [f"**All methods on {task}**: not measured."] if found is None else _everything(found)
        lines.append("")
    return "\n".join([*lines, *_speed()]).rstrip()
