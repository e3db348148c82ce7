"""What ``evoprune eval`` shows of a folder of results: tables, pictures, exported predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ..evaluate.folder import Folder, FolderError
from . import eval_words as words
from .errors import refused
from .terminal import emit, out


def report(folder: Folder, wanted: words.Wanted, outputs: words.Outputs) -> None:
    """Summarise the folder, write what was asked for, and print it."""
    from ..evaluate import latency
    from ..evaluate.summary import summarise

    summary = summarise(folder)
    try:
        folder.write_json("summary.json", summary)
    except FolderError:
        if not outputs.report:  # a folder that can only be read can be shown
            raise
    times = latency.load(folder)
    made: list[str] = []
    if outputs.plots:
        with refused(OSError):
            made += _draw(summary, times, folder)
    if outputs.export is not None:
        from ..evaluate.export import export

        with refused(OSError):
            made += [str(path) for path in export(folder, outputs.export)]
    if outputs.json:
        emit({"folder": str(folder.path), "summary": summary, "latency": times, "written": made})
        return
    _show(summary, times, wanted)
    out().print(f"\nResults: {folder.path}", soft_wrap=True, markup=False)
    for path in made:
        out().print(f"Written: {path}", soft_wrap=True, markup=False)


def _draw(summary: dict[str, Any], times: dict[str, Any] | None, folder: Folder) -> list[str]:
    """Draw what there is something to draw of, and return the paths."""
    home, made = folder.path / "plots", []
    home.mkdir(exist_ok=True)
    for task in summary["tasks"]:
        for name, draw in _drawings(summary, times, task):
            path = home / f"{task}-{name}.png"
            try:
                draw(path)
            except ValueError as nothing:  # no arm of it was run, or timed
                typer.echo(f"{path.name} is not drawn: {nothing}", err=True)
                continue
            made.append(str(path))
    return made


def _drawings(
    summary: dict[str, Any], times: dict[str, Any] | None, task: str
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    from ..evaluate import plots

    arms = summary["tasks"][task]["arms"]
    yield "tokens", partial(plots.accuracy_by_tokens, summary, task)
    if times is not None:
        yield "time", partial(plots.accuracy_by_time, summary, times, task)
    if any(one.get("kinds") for one in arms):
        for keep in dict.fromkeys(one["arm"]["keep"] for one in arms if one["arm"]["keep"] is not None):
            yield f"kinds-{keep}", partial(plots.change_by_kind, summary, task, keep)


def _show(summary: dict[str, Any], latency: dict[str, Any] | None, wanted: words.Wanted) -> None:
    from ..evaluate import paper, tables

    if wanted.paper is None:
        for part in tables.rich_tables(summary, latency):
            out().print(part)
        return
    found = paper.render(wanted.paper, summary, latency)
    out().print(tables.rich_table(tables.Table(found.title, found.headings, found.rows, found.notes)))
