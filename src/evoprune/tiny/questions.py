"""Questions about a scene, each with one right answer of one word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .scenes import COLOUR_NAMES, SIDE, Glyph, Scene

KINDS = ("digit", "colour", "count", "exists", "corner", "left", "relation", "largest")
# Two glyphs this close (px) in the asked quantity are too alike for a question about it.
_APART = 10
_LARGER = 4
_ORDINALS = ("first", "second", "third")


@dataclass(frozen=True)
class Question:
    """A question of one kind (see ``KINDS``), its text and its one-word answer."""

    kind: str
    text: str
    answer: str


def _colour(glyph: Glyph) -> str:
    return COLOUR_NAMES[glyph.colour]


def _digits_and_colours(glyphs: tuple[Glyph, ...]) -> Iterator[Question]:
    values = [glyph.digit for glyph in glyphs]
    for glyph in glyphs:
        yield Question("digit", f"What digit is {_colour(glyph)}?", str(glyph.digit))
        if values.count(glyph.digit) == 1:
            yield Question("colour", f"What colour is the {glyph.digit}?", _colour(glyph))


def _exists(glyphs: tuple[Glyph, ...], rng: np.random.Generator) -> Iterator[Question]:
    present = {glyph.digit for glyph in glyphs}
    absent = [digit for digit in range(10) if digit not in present]
    yield Question("exists", f"Is there a {rng.choice(sorted(present))}?", "yes")
    yield Question("exists", f"Is there a {rng.choice(absent)}?", "no")
    shown = {_colour(glyph) for glyph in glyphs}
    missing = [name for name in COLOUR_NAMES if name not in shown]
    yield Question("exists", f"Is there a {rng.choice(sorted(shown))} digit?", "yes")
    yield Question("exists", f"Is there a {rng.choice(missing)} digit?", "no")


def _corners(glyphs: tuple[Glyph, ...]) -> Iterator[Question]:
    for vertical, y in (("top", 0), ("bottom", SIDE)):
        for horizontal, x in (("left", 0), ("right", SIDE)):
            away = sorted((np.hypot(g.centre[0] - x, g.centre[1] - y), g.digit) for g in glyphs)
            if len(away) == 1 or away[1][0] - away[0][0] >= _APART:
                yield Question("corner", f"What digit is nearest the {vertical} {horizontal}?", str(away[0][1]))


def _relations(glyphs: tuple[Glyph, ...], rng: np.random.Generator) -> Iterator[Question]:
    if len(glyphs) < 2:
        return
    by_x = sorted(glyphs, key=lambda g: g.centre[0])
    if by_x[1].centre[0] - by_x[0].centre[0] >= _APART:
        yield Question("left", "What digit is furthest left?", str(by_x[0].digit))
    if by_x[-1].centre[0] - by_x[-2].centre[0] >= _APART:
        yield Question("left", "What digit is furthest right?", str(by_x[-1].digit))
    one, two = (glyphs[i] for i in rng.permutation(len(glyphs))[:2])
    if abs(one.centre[0] - two.centre[0]) >= _APART:
        answer = "yes" if one.centre[0] < two.centre[0] else "no"
        yield Question("relation", f"Is the {_colour(one)} digit left of the {_colour(two)} digit?", answer)
    by_side = sorted(glyphs, key=lambda g: g.side)
    if by_side[-1].side - by_side[-2].side >= _LARGER:
        yield Question("largest", "What digit is the largest?", str(by_side[-1].digit))


def every(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All questions that the scene answers, in a fixed order; `rng` picks what yes/no questions ask for."""
    glyphs = scene.glyphs
    return [
        *_digits_and_colours(glyphs),
        Question("count", "How many digits are there?", str(len(glyphs))),
        *_exists(glyphs, rng),
        *_corners(glyphs),
        *_relations(glyphs, rng),
    ]


def one_of_each(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question of every kind that the scene allows, so that kinds weigh alike."""
    kinds: dict[str, list[Question]] = {}
    for question in every(scene, rng):
        kinds.setdefault(question.kind, []).append(question)
    return [kinds[kind][rng.integers(len(kinds[kind]))] for kind in KINDS if kind in kinds]


def of_picture(text: str, number: int) -> str:
    """The question about picture `number` (from 0) of several."""
    return f"In the {_ORDINALS[number]} picture, {text[0].lower()}{text[1:]}"
