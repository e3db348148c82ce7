"""The arms of a sweep as those of a bench, with fewer frames of a video among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...bench import arms as bench
from ...bench.calls import Caller
from ...bench.inputs import Maker, Shape
from ...models import find
from ...pruners import EvoPrune, Pruner
from ...schedules import count
from ..arms import FRAMES, Arm


class Callers:
    """Calls each arm on its own number of frames; everything else of a call is the same for all of them.

    Attributes
    ----------
    tokens
        Visual tokens of a call of the arms with fewer frames, by name.
    """

    def __init__(self, model: Any, processor: Any, told: Mapping[str, Any]):
        videos = getattr(processor, "video_processor", None)
        self.maker = Maker(find(model), processor.image_processor, videos, size=tuple(told["picture"]))
        self.family = find(model, **told["options"])
        self.frames, self.batch, self.decode = told["frames"], told["batch"], told["decode"]
        self.device, self.dtype = model.device, model.dtype
        self.shape = Shape(1, batch=self.batch) if self.frames is None else Shape(None, self.frames, self.batch)
        self.maker.check(self.shape)
        self.usual = self._caller(self.shape)
        self.shorter: dict[str, Caller] = {}
        self.tokens: dict[str, int] = {}

    def _caller(self, shape: Shape) -> Caller:
        return Caller(self.maker, shape, "all", self.device, self.dtype, self.decode)

    def shorten(self, arm: Arm) -> None:
        """Let an arm of this name be shown as many frames as have the tokens of its `keep`."""
        if self.frames is None:
            raise ValueError("fewer frames are an arm of videos, and prompts with one picture are timed: give frames")
        if arm.keep is None:
            raise ValueError("an arm of fewer frames has no keep: give tokens a frame, or a share")
        fixed = self.family.grid is not None  # else frames differ in size, and so do their tokens
        frames = shown(arm.keep, self.frames, self.family.tokens_after((), modality="video").full if fixed else None)
        caller = self.shorter[arm.slug] = self._caller(Shape(None, frames, self.batch))
        self.tokens[arm.slug] = self.maker.placeholders(caller.shape, caller.turn(0).pixels, self.family)

    def turn(self, number: int) -> Any:
        """The usual inputs."""
        return self.usual.turn(number)

    def _of(self, live: bench.Live) -> Caller:
        return self.shorter.get(live.arm.name, self.usual)

    def timed(self, live: bench.Live, number: int) -> Any:
        """As in `Caller`."""
        return self._of(live).timed(live, number)

    def selection(self, live: bench.Live, number: int) -> Any:
        """As in `Caller`."""
        return self._of(live).selection(live, number)

    def counted(self, live: bench.Live) -> Any:
        """As in `Caller`."""
        return self._of(live).counted(live)

    def remembered(self, live: bench.Live) -> Any:
        """As in `Caller`."""
        return self._of(live).remembered(live)


def shown(keep: int | float, frames: int, native: int | None) -> int:
    """Return how many of `frames` frames hold about as many tokens as all of them at `keep` of `native` tokens.

    Raises
    ------
    ValueError
        `keep` is a number of tokens, and frames have no fixed one (`native` is None).
    """
    if native is not None:
        return count(count(keep, native) / native, frames)
    if isinstance(keep, int):
        raise ValueError(f"keep={keep} is no share of a frame where frames differ in size: give a share such as 0.25")
    return count(keep, frames)


def sides(
    model: Any, arms: Sequence[Arm], defaults: Mapping[str, Any], optional: bool, callers: Callers
) -> tuple[list[bench.Arm], dict[str, str]]:
    """Return the bench's arms, unpruned ones first, and why others cannot be made, by name.

    With options in force (`optional`) the unpruned model runs with them too, beside the model as shipped.
    """
    read = optional or bench.has_unread(find(model))
    whole: Pruner | None = EvoPrune(keep=1.0) if read else None
    found, refused = bench.make([], native_read=read), {}
    for arm in arms:
        try:
            if arm.method == FRAMES:
                callers.shorten(arm)
                found.append(bench.Arm(arm.slug, "frames", whole))
            else:
                found.append(bench.Arm(arm.slug, "pruned", arm.pruner(defaults)))
        except ValueError as error:
            refused[arm.slug] = " ".join(str(error).split())
    return found, refused
