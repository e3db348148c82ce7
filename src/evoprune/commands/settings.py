"""A pruner from what stands on the command line."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import unknown
from ..models.graphs import MODES
from ..pruners import Pruner, get
from .errors import UserError, refused


def parse_keep(text: str) -> int | float:
    """Return ``"12"`` as 12 tokens, ``"0.25"`` as a share, ``"all"`` as 1.0.

    Raises
    ------
    UserError
        `text` is none of these.
    """
    if text.strip().lower() == "all":
        return 1.0
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UserError(f"--keep {text!r} is no number: give tokens such as 64, a share in (0, 1] such as 0.25, or 'all'")


def make_pruner(
    method: str,
    keep: str,
    schedule: str | None = None,
    settings: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Pruner:
    """Build the pruner, and refuse in one sentence what it refuses.

    Parameters
    ----------
    settings
        ``name=value`` each; a value that is JSON (a number, true, null, a list) is read as such, any other as text.
    defaults
        What `missing` found.

    Raises
    ------
    UserError
        Unknown method, setting or schedule (with the nearest name), or a value out of range.
    """
    with refused(ValueError, TypeError):
        known = [field.name for field in fields(get(method))]
        values: dict[str, Any] = {"method": method, "keep": parse_keep(keep)}
        values |= {**(defaults or {}), **given(settings, values)}
        if schedule is not None:
            if "schedule" not in known:
                raise UserError(f"method {method!r} merges nothing inside the encoder: leave --schedule out")
            values["schedule"] = schedule_of(schedule)
        return Pruner.from_dict(values)


def missing(method: str, settings: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `defaults` that the method has a setting for and the command line leaves open."""
    with refused(ValueError):
        known = {field.name for field in fields(get(method))}
    given = {setting.partition("=")[0].strip() for setting in settings}
    return {name: value for name, value in defaults.items() if name in known - given}


def given(settings: Sequence[str], taken: Container[str]) -> dict[str, Any]:
    """Return ``name=value`` texts as settings; UserError for what is none, or names one of `taken`."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise UserError(f"--set {setting!r} is no setting: write name=value, for example --set positions=original")
        if name in taken:
            raise UserError(f"--set {setting!r} is given by --{name} already: leave it out")
        values[name] = value_of(text)
    return values


def value_of(text: str) -> Any:
    """Return what is JSON as such (a number, true, null, a list), and any other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def schedule_of(text: str) -> str | tuple[int, ...]:
    """Return ``0,96,0`` as the counts themselves, and any other text as it is."""
    parts = text.strip().strip("[]()").replace(" ", ",").split(",")
    counts = [part for part in parts if part]
    if counts and all(part.lstrip("-").isdecimal() for part in counts):
        return tuple(int(part) for part in counts)
    return text


def apply_options(
    choices: Sequence[str] = (), *, encoder_batch: int | None = None, encoder_mode: str | None = None
) -> dict[str, Any]:
    """Return what the command line gives `evoprune.apply` beside the pruner: only what was given.

    Parameters
    ----------
    choices
        ``name=value`` each, of those that the model's family offers; `evoprune.apply` checks them.
    encoder_batch
        Pictures and frames that go through the encoder at a time.
    encoder_mode
        How the encoder runs, one of `evoprune.models.graphs.MODES`.

    Raises
    ------
    UserError
        A value out of range, or no ``name=value``.
    """
    if encoder_batch is not None and encoder_batch < 1:
        raise UserError(f"--encoder-batch {encoder_batch} encodes nothing: give at least 1 picture or frame at a time")
    given: dict[str, Any] = {} if encoder_batch is None else {"encoder_batch": encoder_batch}
    if encoder_mode is not None:
        if encoder_mode not in MODES:
            raise UserError(unknown("--encoder-mode", encoder_mode, MODES))
        given["encoder_mode"] = encoder_mode
    for choice in choices:
        name, equals, value = (part.strip() for part in choice.partition("="))
        if not equals or not name or not value or name in given:
            raise UserError(f"--option {choice!r} is no choice: write name=value once, for example pool=average")
        given[name] = value
    return given
