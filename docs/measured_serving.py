"""The figures of docs/serving.md, from the result files in benchmarks/results/serve and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evoprune.bench.serving.run import FORMAT
from evoprune.bench.serving.table import cells, headings, notes, rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "serve"
PLOTS = Path(__file__).with_name("serving")
ORDER = ("encoder", "embedded")


def block(folder: Path = RESULTS) -> str:
    """Return the tables of all results in Markdown, or that nothing was measured."""
    lines: list[str] = []
    for name, result in _results(folder).items():
        lines += _section(name, result)
    return "\n".join(lines).rstrip() or "Not measured."


def draw(folder: Path = RESULTS, plots: Path = PLOTS) -> None:
    """Write the pictures of all results anew."""
    from evoprune.bench.serving import plot

    plots.mkdir(exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for name, result in _results(folder).items():
        plot.draw(result, plots / f"{name}.svg", f"{result['text']}, {result['dtype']}")


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    files = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    found = {path.stem: data for path, data in files.items() if data.get("format") == FORMAT}  # others measure others
    order = [*(name for name in ORDER if name in found), *(name for name in found if name not in ORDER)]
    return {name: found[name] for name in order if found[name]["cells"]}


def _section(name: str, result: dict[str, Any]) -> list[str]:
    facts, servers = result["manifest"], result["servers"]
    tokens = f"{servers['pruned']['prompt_tokens']} prompt tokens instead of {servers['native']['prompt_tokens']}"
    head = headings()
    lines = [
        f"**{result['text'][0].upper()}{result['text'][1:]}**, {result['dtype']}, `keep={result['keep']}`: {tokens}."
    ]
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows(result)]
    lines += ["", f"![{name}](serving/{name}.svg)", ""]
    packages = {key: facts["packages"].get(key) for key in ("vllm", "torch", "transformers")}
    versions = ", ".join(f"{key} {found}" for key, found in packages.items() if found)
    commit = f"commit {facts['commit'][:12]}" if facts.get("commit") else "commit unknown"
    changed = " with changes" if facts.get("changed") else ""
    where = f"{facts['device']}, {result['cores']} logical cores shared by both servers and the client"
    lines += [*notes(result), f"{where}; {versions}; {commit}{changed}, {str(facts['time'])[:10]}.", ""]
    lines += ["    " + text for text in result["commands"].values()]
    return [*lines, ""]
