"""What the commands of the command line share: the flag for JSON, and how a mistake is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from .commands.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of text.")]


@contextmanager
def told() -> Iterator[None]:
    """Turn a user's mistake into one sentence and exit code 2; everything else keeps its traceback."""
    try:
        yield
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
