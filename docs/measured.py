"""The measured part of README.md, from the result files in benchmarks/results alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGETS = (0.85, 0.95)  # test accuracy, and its share that random dropping of half the tokens should leave
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _made(facts: dict[str, Any]) -> str:
    packages = facts["packages"]
    return (
        f"{facts['device']}, {facts['threads']} thread, torch {packages['torch']}, transformers"
        f" {packages['transformers']}, commit {str(facts['commit'])[:12]}"
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


def _choices(data: dict[str, Any]) -> list[str]:
    from choices_report import Results, standing

    return [
        "**Accuracy on the embedded benchmark**, test split, with 95 % paired intervals over scenes:",
        "",
        *standing(Results(data["cells"]), "test", data["chosen"]),
        "",
        f"Measured with {_made(data['manifest'])}.",
    ]


def _tower(data: dict[str, Any]) -> list[str]:
    rows = ["| native | native s | pruned s | time ratio | FLOP ratio |", "|---|---|---|---|---|"]
    names = {"layers read": "without the layer that nobody reads", "as shipped": "as shipped"}
    for name, label in names.items():
        arm, pruned = data["arms"][name], data["arms"]["pruned"]
        to = arm["pruned_to_this"]
        seconds = f"{arm['seconds']:.2f} | {pruned['seconds']:.2f}"
        rows.append(f"| {label} | {seconds} | {to['seconds']:.3f} | {to['flops']:.3f} |")
    counted = data["arms"]["pruned"]["counted_to_predicted"]
    return [
        f"**The encoder's wall clock**, CLIP-L/336 at real size with random weights, {data['images']} picture,"
        f" 576 -> {data['keep']} tokens, float32, sdpa on both sides, median of {data['repeats']} interleaved runs:",
        "",
        *rows,
        "",
        "The machine is shared: where a smaller native arm took longer than a larger one, that is its noise, and the"
        " time ratios are no better than that.",
        "",
        f"FLOPs that torch counts are {counted:.4f} of the prediction. {_made(data['manifest'])}.",
    ]


def block() -> str:
    """The Markdown between the markers; what has no result file is said to be not measured."""
    parts = {
        "The embedded model": ("tiny_model.json", _model),
        "Accuracy on the embedded benchmark": ("choices.json", _choices),
        "The encoder's wall clock": ("tower_cpu.json", _tower),
    }
    lines: list[str] = []
    for title, (name, write) in parts.items():
        data = _read(name)
        lines += [f"**{title}**: not measured."] if data is None else write(data)
        lines.append("")
    return "\n".join(lines).rstrip()
