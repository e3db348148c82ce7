"""Questions about a clip, each with one right answer of one word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..questions import Question
from ..scenes import COLOUR_NAMES
from .clips import OFF_MIDDLE, SIDE, TRAVEL, Clip, Mover

KINDS = ("moves_left", "first", "crossed", "last_colour", "still")
AIDS = ("digit", "colour", "exists", "place", "way", "crosses", "order", "moves")
_ORDINALS = ("first", "second", "third")
_CLEAR = 8  # px off the middle for questions about the side a digit is on


@dataclass(frozen=True)
class ClipQuestion(Question):
    """A question about a clip; `about` is the value of the one digit that answers it, None where none or several do."""

    about: int | None = None


def way(mover: Mover) -> str | None:
    """Left, right or nowhere; None where too little of the way is seen to say."""
    if mover.still:
        return "nowhere"
    if len(mover.seen) < 2 or abs(mover.travel) < TRAVEL:
        return None
    return "left" if mover.travel < 0 else "right"


def _sides_clear(mover: Mover) -> bool:
    """Whether it is still, or both ends of its way are far enough from the middle line to say where they are."""
    ends = (mover.centre(mover.seen[place])[0] - SIDE / 2 for place in (0, -1))
    return mover.still or min(abs(end) for end in ends) >= OFF_MIDDLE


def _names(mover: Mover) -> tuple[str, str]:
    return f"the {mover.digit}", f"the {COLOUR_NAMES[mover.colour]} digit"


def _only(kind: str, text: str, found: list[Mover]) -> Iterator[ClipQuestion]:
    """The digit and the colour of the only one found."""
    if len(found) == 1:
        digit = found[0].digit
        yield ClipQuestion(kind, f"Which digit {text}?", str(digit), digit)
        yield ClipQuestion("moves", f"What colour {text}?", COLOUR_NAMES[found[0].colour], digit)


def _each(mover: Mover) -> Iterator[ClipQuestion]:
    """What can be asked about one digit alone."""
    colour = COLOUR_NAMES[mover.colour]
    digit = mover.digit
    yield ClipQuestion("digit", f"What digit is {colour}?", str(digit), digit)
    yield ClipQuestion("colour", f"What colour is the {digit}?", colour, digit)
    for name in _names(mover):
        for text, frame in (("begin", mover.seen[0]), ("end", mover.seen[-1])):
            off = mover.centre(frame)[0] - SIDE / 2
            if abs(off) >= _CLEAR:
                side = "left" if off < 0 else "right"
                yield ClipQuestion("place", f"On which side does {name} {text}?", side, digit)
        if (found := way(mover)) is not None:
            yield ClipQuestion("way", f"Where does {name} move?", found, digit)
        if found is not None and _sides_clear(mover):
            yield ClipQuestion("crosses", f"Does {name} cross the middle?", "yes" if mover.crosses else "no", digit)


def _exists(movers: tuple[Mover, ...], rng: np.random.Generator) -> Iterator[ClipQuestion]:
    present = {m.digit for m in movers}
    absent = [digit for digit in range(10) if digit not in present]
    there = int(rng.choice(sorted(present)))
    yield ClipQuestion("exists", f"Is there a {there}?", "yes", there)
    yield ClipQuestion("exists", f"Is there a {rng.choice(absent)}?", "no")


def _order(movers: tuple[Mover, ...]) -> Iterator[ClipQuestion]:
    """Which came first, second, third, last; nothing where two came at once."""
    ranked = sorted(movers, key=lambda m: m.seen[0])
    if len(ranked) < 2 or any(a.seen[0] == b.seen[0] for a, b in pairwise(ranked)):
        return
    for name, mover in zip(_ORDINALS, ranked, strict=False):
        kind = "first" if name == "first" else "order"
        digit = mover.digit
        yield ClipQuestion(kind, f"Which digit came {name}?", str(digit), digit)
        yield ClipQuestion("order", f"What colour was the {name} digit?", COLOUR_NAMES[mover.colour], digit)
        for called in _names(mover):
            yield ClipQuestion("order", f"When did {called} come?", name, digit)
    last = ranked[-1]
    yield ClipQuestion("order", "Which digit came last?", str(last.digit), last.digit)
    yield ClipQuestion("last_colour", "What colour was the last digit?", COLOUR_NAMES[last.colour], last.digit)


def every(clip: Clip, rng: np.random.Generator) -> list[ClipQuestion]:
    """All questions that the clip answers, in a fixed order; `rng` picks what yes/no questions ask for.

    Those of a kind in ``KINDS`` are measured; the others help in training.
    """
    movers = clip.movers
    if not movers:
        return []
    asked = [q for m in movers for q in _each(m)]
    asked += [
        *_exists(movers, rng),
        *_order(movers),
        ClipQuestion("exists", "How many digits are there?", str(len(movers))),
    ]
    ways = [way(m) for m in movers]
    if None in ways:
        return asked
    for direction in ("left", "right"):
        going = [m for m, found in zip(movers, ways, strict=True) if found == direction]
        asked += _only("moves_left" if direction == "left" else "moves", f"moves {direction}", going)
    standing = [m for m in movers if m.still]
    asked += _only("moves", "is still", standing)
    asked.append(ClipQuestion("still", "Is anything still?", "yes" if standing else "no"))
    if all(_sides_clear(m) for m in movers):
        asked.append(
            ClipQuestion("crossed", "How many digits crossed the middle?", str(sum(m.crosses for m in movers)))
        )
    return asked


def one_of_each(clip: Clip, rng: np.random.Generator) -> list[ClipQuestion]:
    """The measured questions that the clip answers: at most one of every kind."""
    found = {q.kind: q for q in every(clip, rng)}
    return [found[kind] for kind in KINDS if kind in found]
