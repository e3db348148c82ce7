"""A task's settings of generation as ``generate`` of transformers takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = (
    "max_new_tokens", "min_new_tokens", "num_beams", "do_sample", "temperature", "top_p", "top_k",
    "repetition_penalty", "no_repeat_ngram_size", "length_penalty",
)  # fmt: skip
MAX_NEW_TOKENS = 1024  # where a task does not say


def settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``generate`` is given: greedy unless the task samples, whatever the generation_config says."""
    found: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1}
    found |= {name: asked[name] for name in NAMES if asked.get(name) is not None}
    found["do_sample"] = bool(found.get("do_sample", True)) and (found.get("temperature") or 0) > 0
    return found if found["do_sample"] else {**found, "temperature": None, "top_p": None, "top_k": None}


def until(text: str, stops: Any) -> str:
    """Return `text` up to the first of the strings that end an answer: one, several or None."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        text = text.split(stop)[0] if stop else text
    return text
