"""``evoprune models`` and ``evoprune methods``: both registries as tables; the README shows the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from rich.table import Table

from .terminal import emit, out

STAGES = {
    "input": "before the encoder",
    "encoder": "inside the encoder",
    "feature": "between encoder and LLM",
    "decoder": "inside the LLM",
}


def family_rows() -> list[dict[str, Any]]:
    """One entry a model family."""
    from ..models import FAMILIES

    return [
        {"family": one.name, "model_types": list(one.model_types), "examples": list(one.examples)} for one in FAMILIES
    ]


def method_rows() -> list[dict[str, Any]]:
    """One entry a method, with the defaults of its settings."""
    from ..pruners import METHODS

    return [
        {
            "method": name,
            "class": one.__name__,
            "stage": one.stage,
            "summary": one.summary,
            "source": one.source,
            "settings": {f.name: f.default for f in fields(one) if f.default is not MISSING},
        }
        for name, one in METHODS.items()
    ]


def models(*, as_json: bool) -> None:
    """Print the model families."""
    rows = family_rows()
    if as_json:
        emit({"models": rows})
        return
    cells = [(r["family"], ", ".join(r["model_types"]), ", ".join(r["examples"])) for r in rows]
    _print(("family", "config.model_type", "for example"), cells)


def methods(*, as_json: bool) -> None:
    """Print the methods."""
    rows = method_rows()
    if as_json:
        emit({"methods": rows})
        return
    cells = [(r["method"], STAGES[r["stage"]], r["summary"], r["source"]) for r in rows]
    _print(("method", "acts", "what it does", "source"), cells)
    out().print("\nSettings and their defaults, for --set:", style="bold")
    _print(("", ""), [(r["method"], "  ".join(f"{k}={v}" for k, v in r["settings"].items())) for r in rows])


def _print(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out().print(table)


def markdown(kind: str) -> str:
    """The table of ``"methods"`` or ``"models"`` for the README."""
    if kind == "methods":
        headings = ["Method", "Class", "Acts", "What it does", "Source"]
        rows = [
            [f"`{r['method']}`", f"`{r['class']}`", STAGES[r["stage"]], r["summary"], r["source"]]
            for r in method_rows()
        ]
    else:
        headings = ["Family", "`config.model_type`", "For example"]
        rows = [
            [r["family"], *(", ".join(f"`{name}`" for name in r[key]) for key in ("model_types", "examples"))]
            for r in family_rows()
        ]
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
