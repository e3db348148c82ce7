"""Whether a pruner that is applied had an effect: a class of lmms-eval may answer in ways that it never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...pruners import Pruner
from .seen import Seen


def check_pruned(lm: Any, pruners: Sequence[Pruner], requests: Sequence[Any], seen: Seen) -> None:
    """Refuse answers about pictures of which nothing was pruned.

    Prompts without pictures alone are no error, and neither is an int `keep` that no picture reaches.

    Parameters
    ----------
    seen
        What `generate` of the model was given for these requests.

    Raises
    ------
    RuntimeError
        The class has not used `generate`, has not given it the pictures, or a share below 1 left everything.
    """
    name = pruners[0].name
    if not seen.prompts or (not seen.pictured and any(_shows(lm, request) for request in requests)):
        raise RuntimeError(
            f"{name} pruned nothing: {type(lm).__name__} answered {len(requests)} requests without giving pictures and "
            "prompt to the model's generate, so choose another base, for example base=auto"
        )
    share = max((one.keep for one in pruners if isinstance(one.keep, float)), default=1.0)
    unpruned = seen.pictured and seen.short == seen.full and sum(seen.layers) == seen.full * len(seen.layers)
    if unpruned and share < 1.0:
        raise RuntimeError(
            f"{name} with keep={share} pruned nothing of {seen.pictured} prompts with {seen.full} visual tokens: keep "
            "less, or use method=none"
        )


def _shows(lm: Any, request: Any) -> bool:
    number, task, split = request.args[-3:]
    document = lm.task_dict[task][split][number]
    shown = next((one(document) for one in request.args[1:3] if callable(one)), None) or []
    parts = shown if lm.is_simple else [part for message in shown for part in message["content"]]
    return any(not isinstance(part, Mapping) or part.get("type") != "text" for part in parts)
