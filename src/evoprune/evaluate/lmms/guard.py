"""Whether the model saw what a task shows, and whether a pruner that is applied had an effect.

A class of lmms-eval may drop pictures, or answer in ways that the model's `generate` never sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...apply import Handle
from .seen import Seen, placeholders


class Unseen(RuntimeError):
    """Pictures of prompts have not reached the model, which would be scored on their texts alone."""


def check_shown(lm: Any, handle: Handle | None, requests: Sequence[Any], seen: Seen) -> None:
    """Refuse answers to prompts whose pictures the model was not given, or that a pruner has left whole.

    Prompts without pictures are no error, and neither are pictures too small for a pruner to drop anything of.

    Parameters
    ----------
    handle
        Of the pruner in force, None for the model as it is.
    seen
        What `generate` of the model was given for these requests.

    Raises
    ------
    Unseen
        The class has not used `generate`, or has not given it the pictures.
    RuntimeError
        Nothing was dropped where the plan drops something.
    """
    pruner = None if handle is None else handle.pruners[0]
    name = "" if pruner is None else f"{pruner.name} pruned nothing: "
    if not _given(lm, handle, requests, seen):
        raise Unseen(
            f"{name}{type(lm).__name__} answered {len(requests)} requests without giving pictures and "
            "prompt to the model's generate, so choose another base, for example base=auto"
        )
    whole = seen.short == seen.full and sum(seen.layers) == seen.full * len(seen.layers)
    if pruner is not None and seen.meant and whole:
        raise RuntimeError(
            f"{pruner.name} with keep={pruner.keep} pruned nothing of {seen.pictured} prompts with {seen.full} visual "
            "tokens: choose another base, for example base=auto"
        )


def _given(lm: Any, handle: Handle | None, requests: Sequence[Any], seen: Seen) -> bool:
    if not seen.prompts:
        return handle is None  # a class may call the model otherwise, which matters to a pruner alone
    if seen.pictured == seen.prompts or not placeholders(lm.model):
        return True
    if seen.prompts != len(requests):  # asked several times: then which prompt is whose is not known
        return bool(seen.pictured) or not any(_shows(lm, request) for request in requests)
    shown = 0
    for request in requests:
        shown += _shows(lm, request)
        if shown > seen.pictured:
            return False
    return True


def _shows(lm: Any, request: Any) -> bool:
    number, task, split = request.args[-3:]
    document = lm.task_dict[task][split][number]
    shown = next((one(document) for one in request.args[1:3] if callable(one)), None) or []
    parts = shown if lm.is_simple else [part for message in shown for part in message["content"]]
    return any(not isinstance(part, Mapping) or part.get("type") != "text" for part in parts)
