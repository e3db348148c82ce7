"""Small reversible changes of a module; each is undone by the ExitStack that it is noted on."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NoReturn

_ABSENT = object()


def set_attribute(owner: Any, name: str, value: Any, stack: ExitStack) -> None:
    """Set an instance attribute; undoing restores what the instance had itself, or falls back to its class.

    If somebody has put another value over ours meanwhile (accelerate wraps `forward`), it is left there.
    """
    before = owner.__dict__.get(name, _ABSENT)
    owner.__dict__[name] = value

    def undo() -> None:
        if owner.__dict__.get(name, _ABSENT) is not value:
            return
        if before is _ABSENT:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before

    stack.callback(undo)


def refuse_copies(owner: Any, stack: ExitStack) -> None:
    """Let `copy.deepcopy(owner)` fail until `stack` closes: a copy's hooks would still work on the original."""

    def deepcopy(memo: dict[int, Any]) -> NoReturn:
        raise ValueError(
            f"this {type(owner).__name__} has a pruner applied, and a copy could not be restored: call remove() on "
            "the handle, copy, and apply to each copy"
        )

    set_attribute(owner, "__deepcopy__", deepcopy, stack)
