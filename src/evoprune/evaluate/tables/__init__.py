"""Tables of a summary in markdown and in a terminal; the rows themselves are made in `rows`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .rows import LEGEND, Table, overall_table, tables, task_tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

__all__ = ["LEGEND", "Table", "markdown", "overall_table", "rich_table", "rich_tables", "tables", "task_tables"]

GAP = 2  # blanks between columns


def markdown(table: Table) -> str:
    """Return a table with its title and notes as markdown."""
    lines = [table.headings, ("---",) * len(table.headings), *table.rows]
    body = "\n".join(f"| {' | '.join(_cell(cell) for cell in cells)} |" for cells in lines)
    notes = "".join(f"\n- {' '.join(note.split())}" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n" + (f"{notes}\n" if notes else "")


def rich_tables(summary: Mapping[str, Any], latency: Mapping[str, Any] | None = None) -> Iterator[RenderableType]:
    """Yield what `rich` prints of a summary: every table with its notes, and the legend in the end."""
    from rich.text import Text

    for table in tables(summary, latency):
        yield rich_table(table)
    yield Text(f"\n{LEGEND}", style="dim")


def rich_table(table: Table) -> Fitted:
    """Return what `rich` prints of a table."""
    return Fitted(table)


class Fitted:
    """A table for `rich` with its title and notes; as several below each other where the terminal is too narrow."""

    def __init__(self, table: Table):
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table as Shown
        from rich.text import Text

        yield Text(f"\n{self.table.title}", style="bold")
        for part in packed(self.table, options.max_width):
            found = Shown(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
            for place in part:
                found.add_column(Text(self.table.headings[place]), no_wrap=place > 0, overflow="fold")
            for cells in self.table.rows:
                found.add_row(*(Text(cells[place]) for place in part))  # Text: a label is no markup
            yield found
        for note in self.table.notes:
            yield Text(note, style="yellow" if note.startswith(("warning", "no sanity")) else "dim")


def packed(table: Table, width: int) -> list[list[int]]:
    """Return the columns of each part, of which none is wider than `width`; all have the first column."""
    lines = [table.headings, *table.rows]
    wide = [max(len(cells[place]) for cells in lines) + GAP for place in range(len(table.headings))]
    parts = [[0]]
    for place in range(1, len(wide)):
        if len(parts[-1]) > 1 and sum(wide[one] for one in [*parts[-1], place]) - GAP > width:
            parts.append([0])
        parts[-1].append(place)
    return parts


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
