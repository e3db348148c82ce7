"""Which model something was made for: sizes from its config, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import operator
from dataclasses import dataclass
from typing import Any

FIT = "fit one with `evoprune fit MODEL --reduce 0.5 -o recipe.json`"


@dataclass(frozen=True)
class Identity:
    """Which model a recipe was fitted on.

    Attributes
    ----------
    model_type, hidden_size, intermediate_size, layers
        As in the config; sizes and layers are the language model's.
    name
        Folder or hub id.
    fingerprint
        Of the sizes of tower and language model (`identify`): the same on every machine and in every release.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    layers: int
    name: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name in ("model_type", "name", "fingerprint"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} is no text: {FIT}")
        for name in ("hidden_size", "intermediate_size", "layers"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))


_FACTS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size",
)  # fmt: skip
_TOWER = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "depth", "patch_size", "image_size")


def identify(config: Any, name: str = "") -> Identity:
    """Return the identity of a model from its config of transformers.

    Raises
    ------
    ValueError
        The config does not tell the language model's sizes.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    facts = {key: getattr(text, key, None) for key in _FACTS}
    sizes: list[Any] = [facts[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")]
    if not all(type(size) is int for size in sizes):
        raise ValueError(
            f"the config of {type(config).__name__} tells hidden_size, intermediate_size and num_hidden_layers as "
            f"{sizes}: give a model whose language model has one whole number for each"
        )
    tower = {key: getattr(getattr(config, "vision_config", None), key, None) for key in _TOWER}
    kind = str(getattr(config, "model_type", ""))
    told = json.dumps([kind, facts, tower], sort_keys=True, default=list)
    return Identity(kind, sizes[0], sizes[1], sizes[2], name, hashlib.sha256(told.encode()).hexdigest()[:16])


def whole(name: str, value: Any, low: int) -> int:
    """Return `value` as a plain int; ValueError where it is none, or below `low`."""
    try:
        plain = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        plain = None
    if plain is None:
        raise ValueError(f"{name}={value!r} is no whole number: {FIT}")
    if plain < low:
        raise ValueError(f"{name}={plain} is below {low}: {FIT}")
    return plain
