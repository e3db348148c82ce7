"""A task's settings of generation as ``generate`` of transformers takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import unknown

# Names, and what a value of each is: its types, and the least.
KINDS: dict[str, tuple[tuple[type, ...], float | None]] = {
    "max_new_tokens": ((int,), 1),
    "min_new_tokens": ((int,), 0),
    "num_beams": ((int,), 1),
    "do_sample": ((bool,), None),
    "temperature": ((int, float), 0),
    "top_p": ((int, float, type(None)), 0),
    "top_k": ((int, type(None)), 0),
    "repetition_penalty": ((int, float), 0),
    "no_repeat_ngram_size": ((int,), 0),
    "length_penalty": ((int, float), None),
}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
MAX_NEW_TOKENS = 1024  # where a task does not say


def check(given: Mapping[str, Any]) -> None:
    """Refuse settings that generation does not have, and values that they do not take.

    Raises
    ------
    ValueError
        With the name or the value, and what is taken.
    """
    for name, value in given.items():
        if name == "until":
            if not isinstance(value, str) and not (isinstance(value, list) and all(type(one) is str for one in value)):
                raise ValueError(f"until={value!r} ends no answer: give a string or a list of strings")
        elif name not in KINDS:
            raise ValueError(unknown("setting of generation", name, [*KINDS, "until"]))
        else:
            _check(name, value, *KINDS[name])


def _check(name: str, value: Any, types: tuple[type, ...], least: float | None) -> None:
    number = isinstance(value, (int, float))
    fits = type(value) in types and (not number or least is None or least <= value < math.inf)
    if not fits:
        words = " or ".join(WORDS[one] for one in types if one is not int or float not in types)
        limit = "" if least is None else f", {least} or more"
        raise ValueError(f"{name}={value!r} does not fit generation: give {words}{limit}")


def settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``generate`` is given: greedy unless the task samples, whatever the generation_config says."""
    found: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1}
    found |= {name: asked[name] for name in KINDS if asked.get(name) is not None}
    found["do_sample"] = bool(found.get("do_sample", True)) and (found.get("temperature") or 0) > 0
    return found if found["do_sample"] else {**found, "temperature": None, "top_p": None, "top_k": None}


def until(text: str, stops: Any) -> str:
    """Return `text` up to the first of the strings that end an answer: one, several or None."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        text = text.split(stop)[0] if stop else text
    return text
