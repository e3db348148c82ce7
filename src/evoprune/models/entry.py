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
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from . import generation
from .base import PIXELS, Family, Modality
from .decoder import Decoder
from .decoder_cache import check_generate
from .hooks import Tower
from .inputs import Prompt, prepare
from .positions import Positions, original_columns
from .prompt import Slot
from .state import TowerState
from .timing import Timer
from .undo import set_attribute

CARRIED = "_evoprune_positions"  # on the output of get_image_features: where its survivors stood


class Entry:
    """Wraps of one model; one call at a time, a second thread waits."""

    def __init__(
        self,
        family: Family,
        state: TowerState,
        tower: Tower,
        prefer_short: bool = False,
        decoder: Decoder | None = None,
    ):
        self.family, self.state, self.tower, self.decoder = family, state, tower, decoder
        self.prefer_short = prefer_short
        self.positions = Positions()
        self.lock = threading.RLock()
        self.depth = 0
        self.active = True
        self.timer = Timer()
        self.carried: dict[Any, list[Tensor]] = {}

    def install(self, stack: ExitStack) -> None:
        """Wrap the model's entries until `stack` closes."""
        stack.callback(setattr, self, "active", False)
        model, base = self.family.model, self.family.base
        for owner, name, run in (
            (model, "generate", self.generate),
            (model, "forward", self.forward),
            (base, "forward", self.inner_forward),
            (base, "get_image_features", functools.partial(self.features, "image")),
            (base, "get_video_features", functools.partial(self.features, "video")),
        ):
            if hasattr(owner, name) and not (run == self.forward and model is base):
                self._wrap(owner, name, run, stack)

    def _wrap(self, owner: Any, name: str, run: Callable[..., Any], stack: ExitStack) -> None:
        original = getattr(owner, name)
        signature = inspect.signature(original)

        @functools.wraps(original)  # transformers reads the signature of all three
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return original(*args, **kwargs)
            with self.lock:
                if self.depth and name in ("generate", "forward"):
                    return original(*args, **kwargs)
                if args:
                    bound = signature.bind_partial(*args, **kwargs).arguments
                    kwargs = {**bound.pop("kwargs", {}), **bound}
                return run(original, kwargs)

        set_attribute(owner, name, wrapped, stack)

    def generate(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        if arguments.get("inputs") is not None and arguments.get("input_ids") is None:
            arguments["input_ids"] = arguments.pop("inputs")
        if self.decoder is not None:
            check_generate(self.decoder.pruner.name, self.family.model, arguments)
        prompt = prepare(self.family, self.state.plan, arguments, self.prefer_short, generate=True)
        arguments = prompt.arguments
        if prompt.layout is not None:
            arguments = generation.adapt(self.family.model, prompt.layout, arguments)
        output = self._call(original, arguments, prompt, generating=True)
        return output if prompt.layout is None else generation.restore(output, prompt.layout)

    def forward(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        prompt = prepare(self.family, self.state.plan, arguments, self.prefer_short, generate=False)
        return self._call(original, prompt.arguments, prompt)

    def inner_forward(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run the base model that a user calls by itself.

        Raises
        ------
        ValueError
            It seems to be a call of a whole model around it, which pruners know nothing of.
        """
        inside = arguments.get("past_key_values") is not None or arguments.get("mm_encoder_outputs")
        if self.family.model is self.family.base and inside:
            name = type(self.family.base).__name__
            raise ValueError(
                f"the pruner was applied to the inner {name}, and past_key_values or mm_encoder_outputs come from a "
                "whole model around it, whose prompt is not seen: apply it to the whole model"
            )
        return self.forward(original, arguments)

    def features(self, modality: Modality, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run `get_image_features` or `get_video_features` on pruned pictures."""
        if self.state.encoding:  # the one calls the other
            return original(**arguments)
        if not self.depth:
            self.state.clear()
        self.tower.check()
        self.family.check_call(arguments)
        self.state.inside_model = arguments.get("output_hidden_states") is not True
        self.state.modality, self.state.encoding = modality, True
        try:
            output = original(**arguments)
        finally:
            self.state.inside_model, self.state.modality, self.state.encoding = False, "image", False
        self.family.finish(output, modality, self.state)
        if self.state.plan.original_positions and not isinstance(output, tuple):
            setattr(output, CARRIED, self.state.survivors(modality))
        return output

    def _call(
        self, original: Callable[..., Any], arguments: dict[str, Any], prompt: Prompt, generating: bool = False
    ) -> Any:
        self.tower.check()
        self.state.clear()
        features = arguments.get("mm_encoder_outputs") or {}
        self.carried = {
            modality: places
            for modality, one in features.items()
            if (places := getattr(one, CARRIED, None)) is not None
        }
        original_positions = self.state.plan.original_positions
        self.positions.begin(prompt.layout or prompt.earlier if original_positions else None, generating)
        self.state.images = prompt.visual_tokens
        self.state.facts = prompt.facts if self.state.plan.reads_prompt else None
        if self.decoder is not None:
            self.decoder.expect(self.state.facts)
        self.depth += 1
        try:
            with self.timer.measure(_device(arguments)):
                output = original(**arguments)
        finally:
            self.depth -= 1
            self.positions.begin(None)
            self.state.facts = None
            if self.decoder is not None:
                self.decoder.facts = None
        prompt.remember(getattr(output, "past_key_values", None))
        return output

    def resolve(self, past: int, rows: int) -> None:
        """Find the original positions of the prompt's columns, now that the survivors are known."""
        layout = self.positions.layout
        if layout is None:
            return
        repeat = max(1, rows // layout.columns.shape[0])
        offsets: list[tuple[Slot, Tensor]] = []
        for modality in self.family.modalities:
            slots = [slot for slot in layout.slots if slot.modality == modality]
            survivors = self.carried.get(modality) or self.state.survivors(modality)
            offsets += self._offsets(slots, survivors, past, repeat)
        self.positions.table, self.positions.after = self.family.position_table(
            layout, original_columns(layout, offsets), self.positions.generating
        )

    def _offsets(self, slots: list[Slot], survivors: list[Tensor], past: int, repeat: int) -> list[tuple[Slot, Tensor]]:
        """Return where the survivors of each slot's items stood; slots of images in the cache are left out."""
        if len(survivors) == repeat * sum(slot.segment.items for slot in slots):
            survivors = _every(survivors, slots, repeat, self.family.repeats_rows)
        else:
            slots = [slot for slot in slots if slot.short >= past]
            if len(survivors) != sum(slot.segment.items for slot in slots):
                raise ValueError(
                    f"positions='original' needs to know which tokens survive in {len(slots)} images of the prompt but "
                    f"{len(survivors)} were encoded: pass pixel_values, or use positions='contiguous'"
                )
        found, item = [], 0
        for slot in slots:
            places = survivors[item : item + slot.segment.items]
            found.append((slot, self.family.offsets(slot.segment, places)))
            item += slot.segment.items
        return found


def _every(survivors: list[Tensor], slots: list[Slot], repeat: int, by_row: bool) -> list[Tensor]:
    """Return the survivors of the first of `repeat` equal copies, as beams make them of each segment or row."""
    if repeat == 1:
        return survivors
    rows = [list(group) for _, group in groupby(slots, key=lambda slot: slot.row)]
    copied = rows if by_row else [[slot] for slot in slots]
    found, item = [], 0
    for group in copied:
        items = sum(slot.segment.items for slot in group)
        found += survivors[item : item + items]
        item += repeat * items
    return found


def _device(arguments: dict[str, Any]) -> torch.device | None:
    for name in ("input_ids", "inputs_embeds", *PIXELS.values()):
        value = arguments.get(name)
        if isinstance(value, Tensor):
            return value.device
    return None
