"""The entry shim: `generate` and `forward` of one model take the user's long prompts and run short ones.

Nothing in transformers is replaced: the instance's methods are wrapped, placeholders that no visual token will
fill are dropped before anything else runs, and what generate returns starts with the user's own prompt again.
The logits that `forward` returns have the length of the short prompt.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from . import generation
from .base import Family
from .hooks import Tower
from .inputs import Prompt, prepare
from .positions import Positions, original_table
from .state import Run, TowerState
from .timing import Timer
from .undo import set_attribute

CARRIED = "_evoprune_positions"  # on the output of get_image_features: where its survivors stood


class Entry:
    """Wraps of one model; one call at a time, a second thread waits."""

    def __init__(self, family: Family, state: TowerState, tower: Tower, prefer_short: bool = False):
        self.family, self.state, self.tower = family, state, tower
        self.prefer_short = prefer_short
        self.positions = Positions()
        self.lock = threading.RLock()
        self.depth = 0
        self.active = True
        self.timer = Timer()
        self.images: tuple[int, ...] = ()  # visual tokens an image of the last call, in the language model
        self.carried: Tensor | None = None

    def install(self, stack: ExitStack) -> None:
        """Wrap the model's entries until `stack` closes."""
        stack.callback(setattr, self, "active", False)
        for owner, name, run in (
            (self.family.model, "generate", self.generate),
            (self.family.model, "forward", self.forward),
            (self.family.base, "get_image_features", self.get_image_features),
        ):
            if hasattr(owner, name):
                self._wrap(owner, name, run, stack)

    def _wrap(self, owner: Any, name: str, run: Callable[..., Any], stack: ExitStack) -> None:
        original = getattr(owner, name)
        signature = inspect.signature(original)

        @functools.wraps(original)  # transformers reads the signature of all three
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return original(*args, **kwargs)
            with self.lock:
                if self.depth and name != "get_image_features":
                    return original(*args, **kwargs)
                if args:
                    bound = signature.bind_partial(*args, **kwargs).arguments
                    kwargs = {**bound.pop("kwargs", {}), **bound}
                return run(original, kwargs)

        set_attribute(owner, name, wrapped, stack)

    def generate(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        if arguments.get("inputs") is not None and arguments.get("input_ids") is None:
            arguments["input_ids"] = arguments.pop("inputs")
        prompt = prepare(self.family, self.state.plan, arguments, self.prefer_short, generate=True)
        arguments = prompt.arguments
        if prompt.layout is not None:
            arguments = generation.adapt(self.family.model, prompt.layout, arguments)
        output = self._call(original, arguments, prompt)
        return output if prompt.layout is None else generation.restore(output, prompt.layout)

    def forward(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        prompt = prepare(self.family, self.state.plan, arguments, self.prefer_short, generate=False)
        return self._call(original, prompt.arguments, prompt)

    def get_image_features(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        self.tower.check()
        self.family.check_call(arguments)
        self.state.inside_model = arguments.get("output_hidden_states") is not True
        try:
            output = original(**arguments)
        finally:
            self.state.inside_model = False
        if self.state.plan.original_positions and not isinstance(output, tuple):
            setattr(output, CARRIED, self.state.run.positions())
        return output

    def _call(self, original: Callable[..., Any], arguments: dict[str, Any], prompt: Prompt) -> Any:
        self.tower.check()
        self.state.run = Run(self.state.plan)
        self.carried = None
        features = (arguments.get("mm_encoder_outputs") or {}).get("image")
        if features is not None:
            self.carried = getattr(features, CARRIED, None)
        original_positions = self.state.plan.original_positions
        self.positions.begin(prompt.layout or prompt.earlier if original_positions else None)
        self.images = prompt.visual_tokens
        self.depth += 1
        try:
            with self.timer.measure(_device(arguments)):
                output = original(**arguments)
        finally:
            self.depth -= 1
            self.positions.begin(None)
        if prompt.layout is not None:
            prompt.remember(getattr(output, "past_key_values", None))
        return output

    def resolve(self, past: int, rows: int) -> None:
        """Find the original positions of the prompt's columns, now that the survivors are known."""
        layout = self.positions.layout
        if layout is None:
            return
        survivors = self.carried if self.carried is not None else self.state.run.positions()
        known = 0 if survivors is None else survivors.shape[0]
        repeat = max(1, rows // layout.columns.shape[0])
        slots = layout.slots
        if survivors is not None and known == repeat * len(slots):
            survivors = survivors[::repeat]
        else:
            slots = [slot for slot in slots if slot.short >= past]
            if known != len(slots):
                raise ValueError(
                    f"positions='original' needs to know which tokens survive in {len(slots)} images of the prompt but "
                    f"{known} were encoded: pass pixel_values, or use positions='contiguous'"
                )
        if survivors is None:
            survivors = torch.zeros(0, 0, dtype=torch.long, device=self.family.language_model.device)  # type: ignore
        self.positions.table = original_table(layout, slots, survivors, self.family.kept_prefix)


def _device(arguments: dict[str, Any]) -> torch.device | None:
    for name in ("input_ids", "inputs_embeds", "pixel_values"):
        value = arguments.get(name)
        if isinstance(value, Tensor):
            return value.device
    return None
