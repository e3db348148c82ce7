"""Wording shared by the errors of the library: the value, the limit and the way out in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Return the message for a `name` that is not among `known`, with the nearest known name.

    Parameters
    ----------
    kind
        What the name stands for, such as ``"method"``.
    name
        What the user wrote.
    known
        Every accepted name, in the order in which they are to be listed.
    """
    names = list(known)
    folded = {option.lower(): option for option in names}
    nearest = get_close_matches(str(name).lower(), list(folded), n=1, cutoff=0.5)
    hint = f"did you mean {folded[nearest[0]]!r}? " if nearest else ""
    return f"unknown {kind} {name!r}: {hint}choose one of {', '.join(names)}"
