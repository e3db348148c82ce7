"""What stands in lmms-eval's ``--model_args``: the pruner's part, and the part of the model class below it."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...errors import unknown
from ...models import FAMILIES
from ...pruners import KeepFirst, Pruner, get

OURS = ("base", "method", "keep", "settings", "options", "fingerprint")
APPLY = ("encoder_batch", "encoder_mode")  # options of `evoprune.apply` that are no choice of a family


@dataclass(frozen=True)
class Wanted:
    """What the arguments ask for.

    Attributes
    ----------
    pruner
        None for the model as it is.
    options
        Of `evoprune.apply`.
    files
        Files that settings of the pruner name.
    fingerprint
        What the user wrote as that of `files`.
    rest
        Arguments of the model class.
    """

    pruner: Pruner | None
    options: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    fingerprint: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def parse(given: Mapping[str, Any], parameters: Collection[str], defaults: Mapping[str, Any]) -> Wanted:
    """Sort the arguments, all but ``base``.

    Parameters
    ----------
    given
        As lmms-eval read them: numbers and booleans are such, lists and objects are text.
    parameters
        What the model class takes.
    defaults
        Settings that the model brings along, for those that are left open.

    Raises
    ------
    ValueError
        An unknown argument (with the nearest name), no or a wrong keep, or a setting that the method refuses.
    """
    values = dict(given)
    method, keep = values.pop("method", None), values.pop("keep", None)
    method = None if method in (None, "none", "full") else method
    settings, options = (_object(name, values.pop(name, None)) for name in ("settings", "options"))
    fingerprint = values.pop("fingerprint", None)
    known = [] if method is None else [one.name for one in fields(get(method)) if one.name != "keep"]
    choices = list(dict.fromkeys([*APPLY, *(name for family in FAMILIES for name in family.options)]))
    rest = {}
    for name, value in values.items():
        if name in parameters:
            rest[name] = value
        elif name in known:
            settings[name] = _value(value)
        elif name in choices:
            options[name] = _value(value)
        else:
            raise ValueError(unknown("model argument", name, [*OURS, *known, *choices, *parameters]))
    if method is None:
        told = [*settings, *([] if keep in (None, "all", 1.0) else [f"keep={keep}"])]
        if told:
            raise ValueError(
                f"{told[0]} is for a method, but method=none prunes nothing: name a method, or leave it out"
            )
        # The choices of a family, such as its pooling, hold for the unpruned model too.
        return Wanted(KeepFirst(1.0) if set(options) - set(APPLY) else None, options, rest=rest)
    if keep is None:
        raise ValueError(
            f"method={method} does not say how much to keep: add for example keep=64, keep=0.25 or keep=all"
        )
    settings = {name: value for name, value in defaults.items() if name in known} | settings
    pruner = Pruner.from_dict({"method": method, "keep": 1.0 if keep == "all" else keep, **settings})
    files = tuple(value for value in settings.values() if isinstance(value, str) and os.path.isfile(value))
    return Wanted(pruner, options, files, None if fingerprint is None else str(fingerprint), rest)


def _object(name: str, value: Any) -> dict[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else dict(value or {})
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f'{name}={value!r} is no JSON object: write for example {name}={{"positions": "original"}}')
    return found


def _value(value: Any) -> Any:
    """Return what lmms-eval left as text: lists, objects and null."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null"):
        return None
    try:
        return json.loads(value)
    except ValueError:
        return value


def parameters_of(kind: type) -> dict[str, Any]:
    """Return the named parameters of a model class and their defaults, those of its parents where it hands them on."""
    found: dict[str, Any] = {}
    for one in kind.__mro__:
        if "__init__" not in one.__dict__ or one is object:
            continue
        named = inspect.signature(one.__init__).parameters.values()  # type: ignore[misc]
        for parameter in named:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self":
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in named):
            break
    return found
