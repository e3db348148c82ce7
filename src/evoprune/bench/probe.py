"""Where stages begin and end, seen from outside by hooks that come off again."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..apply import Handle
from ..models import Family, picking
from ..models.attention import Tap
from ..models.undo import set_attribute
from .clocks import Clock

Span = tuple[Any, Any]


class Probe:
    """Notes spans of one call by their name.

    Attributes
    ----------
    spans
        ``tower``, ``inside`` (projectors within the tower), ``features`` (all of get_image_features or
        get_video_features), ``pick`` (the feature stage; ``picked`` where it lies behind the tower), ``language``,
        ``step`` (forwards of the whole model); and of the inner stages ``merge``, ``look`` (the attention tap by
        itself), ``attend`` (attention and tap in one pass) and ``plain`` (the base backend on the same).
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self.spans: dict[str, list[Span]] = defaultdict(list)
        self._open: dict[str, list[Any]] = defaultdict(list)

    def begin(self, name: str) -> None:
        self._open[name].append(self.clock.mark() if not self._open[name] else None)

    def end(self, name: str) -> None:
        """Close a span; of nested ones of the same name, such as chunks of a tower, only the outermost counts."""
        start = self._open[name].pop()
        if not self._open[name]:
            self.spans[name].append((start, self.clock.mark()))

    def spent(self, name: str) -> float:
        """Return what all spans of a name took."""
        return sum(self.clock.between(*span) for span in self.spans[name])

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # transformers reads signatures
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.end(name)

        return timed

    def install(self, family: Family, stack: ExitStack, inside: bool = True) -> None:
        """Watch the outer stages until `stack` closes: a handful of marks a call.

        Nothing `inside` the tower where it is compiled or captured: projectors there are then part of the encoder.
        """
        for name, module in (("tower", family.tower), ("language", family.language_model), ("step", family.model)):
            self._around(name, module, stack)
        for module in family.tower.modules() if inside else ():
            if type(module) is type(family.projector):
                self._around("inside", module, stack)
        for name in ("get_image_features", "get_video_features"):
            if hasattr(family.base, name):
                set_attribute(family.base, name, self.wrap("features", getattr(family.base, name)), stack)
        if inside:
            self._picks(stack)

    def install_inner(self, handle: Handle | None, stack: ExitStack) -> None:
        """Watch what choosing and merging takes: some marks a merging layer.

        Where the attention received comes out of the layer's attention in one pass, the base backend runs once more
        beside it, and what the pass takes above that is the tap's: so calls that are timed as wholes are others.
        """
        if handle is None:
            return
        for block in handle._entry.tower.blocks:
            norm = getattr(block.block, block.spec.norm2)
            begin, end = self._hooks("merge")
            stack.callback(norm.register_forward_pre_hook(begin, prepend=True).remove)
            stack.callback(norm.register_forward_pre_hook(end).remove)
        for module in handle._entry.family.tower.modules():
            tap = module.__dict__.get("_evoprune_tap")
            if tap is not None:
                self._tap(tap, module, stack)

    def _picks(self, stack: ExitStack) -> None:
        original = picking._pick

        def pick(*args: Any, **kwargs: Any) -> Any:
            return self.wrap("pick" if self._open["tower"] else "picked", original)(*args, **kwargs)

        stack.callback(setattr, picking, "_pick", original)
        picking._pick = pick

    def _tap(self, tap: Tap, attention: torch.nn.Module, stack: ExitStack) -> None:
        look, attend = tap.look, tap.attend

        def seen(*args: Any, **kwargs: Any) -> None:
            (look if self._open["attend"] else self.wrap("look", look))(*args, **kwargs)

        def passed(query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
            output = self.wrap("attend", attend)(query, key, value, scaling, bias)
            mask = None if bias is None else bias[:, None, None, :].to(query.dtype)
            self.wrap("plain", tap.base)(attention, query, key, value, mask, scaling=scaling, is_causal=False)
            return output

        set_attribute(tap, "look", seen, stack)
        set_attribute(tap, "attend", passed, stack)

    def _around(self, name: str, module: torch.nn.Module, stack: ExitStack) -> None:
        begin, end = self._hooks(name)
        stack.callback(module.register_forward_pre_hook(begin, prepend=True).remove)
        stack.callback(module.register_forward_hook(end).remove)

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        return (lambda *_: self.begin(name)), (lambda *_: self.end(name))

    def stages(self) -> dict[str, float]:
        """Return what each stage inside a call took, those that were seen.

        ``encoder`` is the tower without projectors inside it, and the feature stage; ``projector`` all other work on
        visual features; both together are ``pre_llm``.
        """
        found: dict[str, float] = {}
        if self.spans["tower"]:
            tower, inside, picked = self.spent("tower"), self.spent("inside"), self.spent("picked")
            found["encoder"] = tower - inside + picked
            if any(self.spans[name] for name in ("merge", "look", "pick", "picked")):
                added = sum(self.spent(name) for name in ("merge", "look", "attend", "pick", "picked"))
                found["selection"] = max(0.0, added - self.spent("plain"))
            found["projector"] = self._behind() + inside - picked
            found["pre_llm"] = found["encoder"] + found["projector"]
        if self.spans["language"]:
            found["prefill"] = self.clock.between(*self.spans["language"][0])
        return found

    def _behind(self) -> float:
        """From the tower's end to the end of the features that it is for."""
        return sum(
            self.clock.between(tower[1], whole[1])
            for tower, whole in zip(self.spans["tower"][-1:], self.spans["features"][-1:], strict=True)
        )

    def steps(self) -> list[float]:
        """Return what each forward of the whole model after the first took."""
        return [self.clock.between(*span) for span in self.spans["step"][1:]]
