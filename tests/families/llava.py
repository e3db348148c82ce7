"""LLaVA-1.5 in the table: pictures of any size become one square of 64 patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests import builders
from tests.families.case import Case, Picture, Row, Video, drawn, texts_of


def inputs(rows: Sequence[Row]) -> dict[str, Any]:
    pictures = drawn(rows, Picture) or None
    return dict(
        builders.processor()(images=pictures, text=texts_of(rows, "<image>"), return_tensors="pt", padding=True)
    )


def full(part: Picture | Video) -> int:
    return 64


def short(part: Picture | Video, keep: int | float) -> int:
    return keep if isinstance(keep, int) else int(keep * 64 + 0.5)


CASES = [
    Case(
        name="llava",
        family="LLaVA-1.5",
        model=builders.model,
        inputs=inputs,
        pictures=tuple(Picture(16 + 7 * i, 24 + 5 * (i % 6), i) for i in range(20)),
        full=full,
        short=short,
        keep=16,
    )
]
