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
FAMILY_HEADINGS = (
    "family", "model_type", "towers", "stages", "image", "video", "tested with transformers", "for example",
)  # fmt: skip


def family_rows() -> list[dict[str, Any]]:
    """One entry a model family."""
    from ..models import FAMILIES, TESTED

    return [
        {
            "family": one.name,
            "model_types": list(one.model_types),
            "towers": one.towers,
            "stages": list(one.stages),
            "image": "image" in one.modalities,
            "video": "video" in one.modalities or one.frames_as_images,
            "options": {name: list(values) for name, values in one.options.items()},
            "transformers": list(TESTED),
            "examples": list(one.examples),
        }
        for one in FAMILIES
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
    _print(FAMILY_HEADINGS, [_family_cells(row) for row in rows])
    out().print("\nOptions of a family, for --option and evoprune.apply; the first value is the default:", style="bold")
    chosen = [(r["family"], "  ".join(f"{k}={'|'.join(v)}" for k, v in r["options"].items())) for r in rows]
    _print(("", ""), [cells for cells in chosen if cells[1]])


def _family_cells(row: dict[str, Any], code: str = "") -> list[str]:
    def names(values: Sequence[str]) -> str:
        return ", ".join(f"{code}{value}{code}" for value in values)

    yes = {True: "yes", False: "no"}
    return [
        row["family"], names(row["model_types"]), row["towers"], names(row["stages"]), yes[row["image"]],
        yes[row["video"]], ", ".join(row["transformers"]), names(row["examples"][:1]),
    ]  # fmt: skip


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
        headings = [heading.capitalize() for heading in FAMILY_HEADINGS]
        rows = [_family_cells(row, "`") for row in family_rows()]
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
