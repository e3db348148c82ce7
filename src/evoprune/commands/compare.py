"""``evoprune compare``: two sample files of lmms-eval, question by question."""

from __future__ import annotations

from pathlib import Path

from .errors import refused
from .terminal import emit, out


def run(first: Path, second: Path, *, as_json: bool) -> None:
    """Print how the second run differs from the first.

    Raises
    ------
    UserError
        A file that cannot be read, or different questions.
    """
    with refused(ValueError, OSError, ImportError):
        from ..evaluate.compare import compare, rich_table

        found = compare(first, second)
    if as_json:
        emit(found)
    else:
        out().print(rich_table(found))
