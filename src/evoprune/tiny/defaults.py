"""The embedded models by name, and the settings that they bring along for the methods that need them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

EMBEDDED = {"tiny": "tiny", "tiny-video": "tiny.video"}  # name that the user writes, and the package with `folder`
# What methods with such a setting are given for an embedded model where nobody says.
DEFAULTS = {"recipe": "recipes.json", "text_tower": "embeddings"}


def folder(name: str) -> Path:
    """Return the folder of an embedded model, as ``from_pretrained`` takes it."""
    return import_module(f"evoprune.{EMBEDDED[name]}").folder()


def defaults(name: str) -> dict[str, str]:
    """Return the settings that an embedded model brings along for the methods that need them, none for others."""
    if name not in EMBEDDED:
        return {}
    home = Path(str(import_module(f"evoprune.{EMBEDDED[name]}").__file__)).parent
    return {**DEFAULTS, "recipe": str(home / DEFAULTS["recipe"])}
