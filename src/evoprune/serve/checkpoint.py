"""The checkpoint that is to be served: its config alone, and what a budget makes of a picture of its own size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .counts import Counts
from .options import Options

FRAMES = 2  # of the video whose tokens are counted; each has as many as the other


@dataclass(frozen=True)
class Picture:
    """Tokens of one picture.

    Attributes
    ----------
    height, width
        Pixels.
    full, kept
        Tokens in the prompt without and with pruning.
    token
        Id of the placeholder in the prompt.
    """

    height: int
    width: int
    full: int
    kept: int
    token: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def overridden(config: Any, values: Mapping[str, Any]) -> Any:
    """Return the config with the user's own overrides, which vLLM lays over it in the same way."""
    for name, value in values.items():
        inner = getattr(config, name, None)
        if isinstance(value, Mapping) and hasattr(inner, "to_dict"):
            overridden(inner, value)
        else:
            setattr(config, name, value)
    return config


def count(config: Any, options: Options) -> Picture:
    """Return the tokens of a picture of the size that the tower sees.

    Raises
    ------
    ValueError
        A family that cannot be served, or a budget that its pictures or videos cannot reach.
    """
    counts = Counts(config, options)
    family = counts.family
    if family.grid is None:
        raise ValueError(f"{config.model_type} has pictures of any size, which cannot be served with pruning yet")
    height, width = (side * family.patch_size for side in family.grid)
    found = counts.image(height, width).count
    if "video" in family.modalities:
        counts.video(FRAMES)
    return Picture(height, width, found.full, found.short, int(family.token_id("image") or 0))
