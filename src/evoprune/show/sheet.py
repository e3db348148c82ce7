"""Lays panels and their captions out on one sheet, with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

MARGIN = 16
GROUND = (250, 250, 248)
INK = (28, 28, 32)
FAINT = (110, 110, 116)
FONT = 16  # px
LEADING = 22  # px from line to line


@dataclass(frozen=True)
class Row:
    """Panels of one height, side by side, and the lines of text under them."""

    panels: Sequence[Image.Image]
    lines: Sequence[str] = field(default_factory=tuple)


def sheet(title: str, headings: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Return one RGB picture: a title, headings above the columns, and the rows.

    Raises
    ------
    ValueError
        There is no row, or a row has another number of panels than there are headings.
    """
    if not rows:
        raise ValueError("there is no row to draw: give at least one")
    for row in rows:
        if len(row.panels) != len(headings):
            raise ValueError(f"a row has {len(row.panels)} panels under {len(headings)} headings: give one a heading")
    widths = [max(row.panels[i].width for row in rows) for i in range(len(headings))]
    font, large = ImageFont.load_default(FONT), ImageFont.load_default(FONT + 6)
    text = [title, *(line for row in rows for line in row.lines)]
    longest = max(large.getlength(title), *(font.getlength(line) for line in text))
    width = int(max(sum(widths) + MARGIN * (len(widths) - 1), longest)) + 2 * MARGIN
    heights = [max(p.height for p in row.panels) + LEADING * len(row.lines) + 2 * MARGIN for row in rows]
    top = MARGIN + 2 * LEADING + LEADING
    page = Image.new("RGB", (width, top + sum(heights)), GROUND)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), title, INK, font=large)
    lefts = [MARGIN + sum(widths[:i]) + MARGIN * i for i in range(len(widths))]
    for left, heading in zip(lefts, headings, strict=True):
        pen.text((left, MARGIN + int(1.6 * LEADING)), heading, FAINT, font=font)
    for row, height in zip(rows, heights, strict=True):
        for left, panel in zip(lefts, row.panels, strict=True):
            page.paste(panel, (left, top))
        below = top + max(p.height for p in row.panels) + MARGIN // 2
        for number, line in enumerate(row.lines):
            pen.text((MARGIN, below + number * LEADING), line, INK, font=font)
        top += height
    return page
