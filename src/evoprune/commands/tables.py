"""``evoprune models`` and ``evoprune methods``: both registries as tables; the README shows the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from rich.table import Table

from ..pruners import Pruner
from ..pruners.base import NOTHING
from .terminal import emit, out

STAGES = {
    "input": "before the encoder",
    "encoder": "inside the encoder",
    "feature": "between encoder and LLM",
    "decoder": "inside the LLM",
}
NEEDS = {
    "encoder": {"importance": "attention received", "keys": "keys"},
    "feature": {
        "importance": "attention from CLS, or received",
        "keys": "keys",
        "cls": "CLS",
        "projected": "projected features",
        "relevance": "the question",
    },
    "decoder": {
        "attention": "attention from the prompt's last token",
        "sums": "attention from text and picture",
        "hidden": "hidden states",
        "keys": "keys",
    },
}
"""What a method has to be shown beside the tokens, in words, by its stage and the names of its `needs`."""
GIVEN = {"recipe": "a recipe of `evoprune fit`", "text_tower": "a text tower, or 'embeddings'"}
"""Settings that have to be given, and what they are."""
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
            "needs": needs(one),
            "paper": one.source,
            "settings": {f.name: f.default for f in fields(one) if f.default is not MISSING},
        }
        for name, one in METHODS.items()
    ]


def needs(method: type[Pruner]) -> list[str]:
    """Return what a method with default settings needs, in words; nothing where tokens and counts are enough."""
    asked = getattr(method(keep=1.0), "needs", NOTHING)
    shown = [words for name, words in NEEDS.get(method.stage, {}).items() if name in asked]
    return shown + [words for name, words in GIVEN.items() if name in {field.name for field in fields(method)}]


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
    cells = [(r["method"], STAGES[r["stage"]], r["summary"], _listed(r["needs"]), r["paper"]) for r in rows]
    _print(("method", "acts", "what it does", "needs", "paper"), cells)
    out().print("\nSettings and their defaults, for --set:", style="bold")
    _print(("", ""), [(r["method"], "  ".join(f"{k}={v}" for k, v in r["settings"].items())) for r in rows])


def _listed(words: Sequence[str]) -> str:
    return "; ".join(words) if words else "nothing more"


def _print(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out().print(table)


def markdown(kind: str) -> str:
    """The table of ``"methods"`` and their ``"settings"``, or of ``"models"``, for README and docs."""
    if kind == "methods":
        headings = ["Method", "Class", "Acts", "What it does", "Needs", "Paper"]
        rows = [
            [f"`{r['method']}`", f"`{r['class']}`", STAGES[r["stage"]], r["summary"], _listed(r["needs"]), r["paper"]]
            for r in method_rows()
        ]
    elif kind == "settings":
        headings = ["Method", "Settings"]
        rows = [
            [f"`{r['method']}`", ", ".join(f"`{k}={v!r}`" for k, v in r["settings"].items())] for r in method_rows()
        ]
    else:
        headings = [heading.capitalize() for heading in FAMILY_HEADINGS]
        rows = [_family_cells(row, "`") for row in family_rows()]
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
