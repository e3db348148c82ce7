"""What commands print: results to stdout, progress to stderr, and progress only where somebody watches."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .errors import UserError


def out() -> Console:
    """The console for results."""
    return Console(highlight=False)


def emit(values: dict[str, Any]) -> None:
    """Print one JSON object, alone, to stdout."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))


def watched(as_json: bool) -> bool:
    """Whether progress is to be shown."""
    return not as_json and sys.stderr.isatty()


@contextmanager
def progress(shown: bool) -> Iterator[Progress]:
    """A rich progress display on stderr that vanishes at its end; a silent one unless `shown`."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as display:
        yield display


def quiet(shown: bool) -> None:
    """Keep the libraries' own notes out of the way; their download bars stay where progress is shown."""
    import logging

    # Said by torch while optional packages that transformers looks at (torchao) are imported.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    import huggingface_hub.utils
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not shown:
        huggingface_hub.utils.disable_progress_bars()


def check_writable(path: Path, endings: Sequence[str] = (".png",)) -> None:
    """Refuse an output path that cannot be written, before any work is done.

    Parameters
    ----------
    endings
        What the name may end in, in lower case.

    Raises
    ------
    UserError
        The folder does not exist, the path is a folder, has an unknown kind of picture, or is not writable.
    """
    folder = path.parent
    if not os.path.isdir(folder):  # pathlib's own raises where the name is too long
        raise UserError(f"{path} cannot be written: the folder {folder} does not exist, create it or choose another")
    if os.path.isdir(path):
        raise UserError(
            f"{path} cannot be written: it is a folder, give a file name such as {path / f'demo{endings[0]}'}"
        )
    if path.suffix.lower() not in endings:
        kinds = " or ".join(ending.removeprefix(".").upper() for ending in endings)
        raise UserError(
            f"{path} has the ending {path.suffix!r}: the picture is a {kinds}, give a name that ends in "
            f"{' or '.join(endings)}"
        )
    existed = os.path.exists(path)
    try:
        path.open("ab").close()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another path") from error
    if not existed:
        path.unlink()
