"""lmms-eval without its own progress bars, which would be written across those of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any


class WithoutBars:
    """A stream that drops what bars write, and hands on everything else."""

    def __init__(self, stream: Any):
        # rich finds its own way around a stream that names the one behind it.
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)
        self._stream, self._inside = stream, False

    def write(self, text: str) -> int:
        """Write, unless `text` is (the end of) a bar."""
        bar = "\r" in text or (self._inside and not text.strip())
        self._inside = bar
        return len(text) if bar else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the bars that are written to stderr."""
    with redirect_stderr(WithoutBars(sys.stderr)):
        yield
