"""Errors that lmms-eval's command line does not turn into exit code 0."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def failing_loudly() -> Iterator[None]:
    """Hand errors to `fail`."""
    try:
        yield
    except Exception as error:
        fail(error)


def fail(error: BaseException) -> NoReturn:
    """Raise `error`, or what lmms-eval's own command line does not turn into exit code 0."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if "lmms_eval.__main__" in sys.modules or getattr(spec, "name", "") == "lmms_eval.__main__":
        if not isinstance(error, ValueError):
            traceback.print_exception(error)
        raise SystemExit(f"error: {error}") from error
    raise error
