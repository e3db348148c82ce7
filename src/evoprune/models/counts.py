"""What is counted: segments of placeholders, and tower items of so many patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..pruners import Pruner

Grid = tuple[int, int]  # rows and columns of patches of one tower item: a picture, tile, crop or frame
Modality = Literal["image", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "video")
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}

STAGES = ("input", "encoder", "feature", "decoder")


class Count(NamedTuple):
    """Placeholders of one image: as the model's own processor writes them, and as many as the pruners leave."""

    full: int
    short: int


@dataclass(frozen=True)
class Segment:
    """One run of adjacent placeholders in a prompt: an image, a video, or a tile or frame of it.

    Attributes
    ----------
    count
        Its placeholders before and after.
    items
        How many items of the tower (tiles, frames) it takes its tokens from, in the tower's order.
    key
        What the family needs to place the survivors (`Family.offsets`); hashable.
    more
        Whether it goes on with the video of the segment before it (frames between time stamps).
    """

    count: Count
    items: int = 1
    key: Any = None
    more: bool = False


def chain(pruners: Sequence[Pruner], tokens: int, lenient: bool = False) -> int:
    """Return how many of `tokens` visual tokens enter the language model; pruners act in the order of their stages.

    `lenient` lets an int `keep` above the tokens pass: it then keeps all, as pictures of other sizes need it.
    """
    for pruner in sorted(pruners, key=lambda one: STAGES.index(one.stage)):
        if pruner.stage == "decoder":
            continue  # it acts behind the prompt, whose placeholders stay
        if not (lenient and isinstance(pruner.keep, int) and pruner.keep > tokens):
            tokens = pruner.tokens_after(tokens)
    return tokens
