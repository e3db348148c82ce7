"""Files of recipes: plain JSON, written at once or not at all, and read with a sentence about what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import unknown
from .recipes import FIT, Recipe

FORMAT = "evoprune-fitprune-1"
LARGEST = 64 << 20  # bytes


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Return the recipes in a file, or in what `json.load` gives of one; or the one that `Recipe.to_dict` gave.

    Raises
    ------
    ValueError
        No such file, no JSON, another format, or counts that make no sense; names the file, the value and a way out.
    """
    if isinstance(source, Mapping):
        return _recipes(source, "the recipe")
    path = os.path.expanduser(os.fsdecode(source))
    values = _json(path, _bytes(path))
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}, no recipe: {FIT}")
    return _recipes(values, path)


def write(path: str | os.PathLike[str], recipes: Sequence[Recipe]) -> None:
    """Write a file of recipes, by way of a second file that takes its place when it is whole.

    What all recipes have in common, their model and manifest, is written once.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    target = Path(path)
    whole: dict[str, Any] = {"format": FORMAT}
    rows = [recipe.to_dict() for recipe in recipes]
    for name in ("model", "manifest"):
        if rows and all(row[name] == rows[0][name] for row in rows):
            whole[name] = rows[0][name]
            rows = [{key: value for key, value in row.items() if key != name} for row in rows]
    text = ",\n  ".join(json.dumps(row, allow_nan=False) for row in rows)
    head = json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False)[:-2]
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_text(f'{head},\n "recipes": [\n  {text}\n ]\n}}\n', encoding="utf-8")
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()


def _bytes(path: str) -> bytes:
    if not os.path.exists(path):
        raise ValueError(f"{path or 'a file without a name'} does not exist: give the file of a recipe, or {FIT}")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder: give the file of a recipe in it")
    if os.path.getsize(path) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST} bytes, which no recipe has: {FIT}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give another file, or {FIT}") from error


def _json(path: str, raw: bytes) -> Any:
    if raw[:1] == b"\x80" or raw[:2] == b"PK":
        raise ValueError(f"{path} is a pickle, which could run anything and is never opened; recipes are JSON: {FIT}")
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for a recipe: {FIT}") from None
    except ValueError as error:  # of the decoder, of the parser, or for a number with too many digits
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no JSON, or cut off ({reason}): {FIT}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _recipes(values: Mapping[str, Any], where: str) -> tuple[Recipe, ...]:
    if "recipes" not in values and "left" in values:
        return (_one(values, where),)
    if values.get("format") != FORMAT:
        raise ValueError(f"{where} has the format {values.get('format')!r}, not {FORMAT!r}: {FIT}")
    for key in values:
        if key not in (known := ["format", "model", "manifest", "recipes"]):
            raise ValueError(f"{where}: {unknown('field of a file of recipes', key, known)}")
    rows = values.get("recipes")
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise ValueError(f"{where} lists no recipes: {FIT}")
    shared = {name: values[name] for name in ("model", "manifest") if name in values}
    return tuple(
        _one(row, where if len(rows) == 1 else f"{where}, recipe {number}", shared)
        for number, row in enumerate(rows, 1)
    )


def _one(row: Any, where: str, shared: Mapping[str, Any] | None = None) -> Recipe:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is {row!r}, no recipe: {FIT}")
    try:
        return Recipe.from_dict({**(shared or {}), **row})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
