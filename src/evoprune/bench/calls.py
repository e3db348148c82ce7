"""One call of one arm, and what is read of it: seconds, FLOPs or memory of its stages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .arms import Live
from .clocks import Clock, FlopClock, HostClock, MemoryClock, counter, stage_clock, trim, wait
from .inputs import TURNS, Maker, Shape
from .probe import Probe


@dataclass(frozen=True)
class Turn:
    """One of the inputs that the repeats go through.

    Attributes
    ----------
    raw
        Pictures or clips of each prompt.
    pixels
        What the processor makes of them, on the device.
    words
        Ids and masks of the prompts, None where only the encoder runs.
    """

    raw: list[list[Any]]
    pixels: Mapping[str, Any]
    words: Mapping[str, Any] | None


@dataclass
class Reading:
    """Seconds of each stage of one call; `processor` are the CPU's own."""

    seconds: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)
    unaccounted: float = 0.0


class Caller:
    """Runs arms on one shape of inputs.

    Parameters
    ----------
    stages
        ``"encoder"``: tower and projector alone; ``"all"``: from pictures in memory to the first tokens.
    decode
        Tokens that are generated behind the first one.
    """

    def __init__(
        self, maker: Maker, shape: Shape, stages: str, device: torch.device, dtype: torch.dtype, decode: int = 8
    ):
        self.maker, self.shape, self.stages, self.decode = maker, shape, stages, decode
        self.device, self.dtype = device, dtype
        self._turns: dict[int, Turn] = {}

    def turn(self, number: int) -> Turn:
        """Return the inputs of a turn; they are made once."""
        number %= TURNS
        if number not in self._turns:
            raw = self.maker.raw(self.shape, number)
            pixels = self.maker.preprocess(raw, self.device, self.dtype)
            words = None if self.stages == "encoder" else self.maker.prompt_of(self.shape, pixels)
            self._turns[number] = Turn(raw, pixels, words)
        return self._turns[number]

    @torch.no_grad()
    def timed(self, live: Live, number: int) -> Reading:
        """Time one call by its outer stages."""
        turn, probe, host = self.turn(number), Probe(stage_clock(self.device)), HostClock(self.device)
        with live.path(), ExitStack() as stack:
            probe.install(live.family, stack, live.arm.mode == "eager")
            ends = self._call(live, turn, probe, host)
        wait(self.device)
        reading = Reading(probe.stages(), _processor(probe))
        whole = "ttft" if self.stages == "all" else None
        for name in ("whole", whole):
            if name is not None:
                reading.seconds[name] = host.between(*ends)
                if self.device.type == "cpu":
                    reading.processor[name] = host.processor(*ends)
        if probe.spans["preprocess"]:
            reading.seconds["preprocess"] = probe.spent("preprocess")
        if steps := probe.steps():
            reading.seconds["decode"] = sorted(steps)[len(steps) // 2]
        parts = ("encoder", "projector") if self.stages == "encoder" else ("preprocess", "pre_llm", "prefill")
        held = sum(reading.seconds.get(part, 0.0) for part in parts)
        reading.unaccounted = 1.0 - held / reading.seconds["whole"]
        return reading

    def _call(self, live: Live, turn: Turn, probe: Probe, host: HostClock) -> tuple[Any, Any]:
        """Run the call and return where it began and ended; the whole of all stages ends with the first token."""
        start = host.mark()
        if self.stages == "encoder":
            self.maker.features(live.model, self.shape, turn.pixels)
            return start, host.mark()
        tokens = Tokens(host)
        probe.begin("preprocess")
        pixels = self.maker.preprocess(turn.raw, self.device, self.dtype)
        probe.end("preprocess")
        self._generate(live, pixels, turn, 1 + self.decode, tokens)
        return start, tokens.first

    def _generate(self, live: Live, pixels: Mapping[str, Any], turn: Turn, tokens: int, streamer: Any = None) -> None:
        live.model.generate(**pixels, **(turn.words or {}), max_new_tokens=tokens, do_sample=False, streamer=streamer)

    @torch.no_grad()
    def selection(self, live: Live, number: int) -> tuple[float, float | None] | None:
        """Time what choosing and merging takes inside the encoder, in a call of its own; None where nothing is seen.

        Seconds, and those of the processor on a CPU.
        """
        probe = Probe(stage_clock(self.device))
        with live.path(), ExitStack() as stack:
            probe.install(live.family, stack, live.arm.mode == "eager")
            probe.install_inner(live.handle, stack)
            self.maker.features(live.model, self.shape, self.turn(number).pixels)
        wait(self.device)
        found = probe.stages().get("selection")
        return None if found is None else (found, _processor(probe).get("selection"))

    @torch.no_grad()
    def counted(self, live: Live) -> dict[str, int]:
        """Count the FLOPs of each stage on the plain path, up to the first token."""
        turn, found = self.turn(0), counter()
        probe = Probe(FlopClock(found))
        with live.path(plain=True), ExitStack() as stack:
            probe.install(live.family, stack, live.arm.mode == "eager")
            probe.install_inner(live.handle, stack)
            with found:
                self._short(live, turn)
        stages = {name: int(value) for name, value in probe.stages().items()}
        return {**stages, "whole": int(found.get_total_flops())}

    @torch.no_grad()
    def remembered(self, live: Live) -> tuple[dict[str, int | None], dict[str, int | None]]:
        """Return the peak memory of each stage above what was held when it began, and what was held then."""
        turn, clock = self.turn(0), MemoryClock(self.device)
        names = {"encoder": "tower", "pre_llm": "features", "prefill": "language", "whole": "whole"}
        if self.stages == "encoder":
            del names["prefill"]
        if not clock.usable(self.device):
            with live.path():
                self._short(live, turn)
            return dict.fromkeys(names), dict.fromkeys(names)
        if live.arm.mode != "eager":
            with live.path():
                self._short(live, turn)  # compiles or captures, which takes memory of its own
        trim()
        probe = Probe(clock)
        with live.path(), ExitStack() as stack:
            probe.install(live.family, stack, live.arm.mode == "eager")
            probe.wrap("whole", self._short)(live, turn)
        spans = {stage: probe.spans[name][:1] for stage, name in names.items()}
        peaks = {stage: int(clock.between(*span[0])) if span else None for stage, span in spans.items()}
        return peaks, {stage: clock.levels[span[0][0]] if span else None for stage, span in spans.items()}

    def _short(self, live: Live, turn: Turn) -> None:
        if self.stages == "encoder":
            self.maker.features(live.model, self.shape, turn.pixels)
        else:
            self._generate(live, turn.pixels, turn, 1)


class Tokens:
    """A streamer that notes when the first new token is there."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.prompt = True
        self.first: Any = None

    def put(self, value: Tensor) -> None:
        if self.prompt:
            self.prompt = False
        elif self.first is None:
            self.first = self.clock.mark()

    def end(self) -> None:
        return


def _processor(probe: Probe) -> dict[str, float]:
    """Return the processor's seconds of each stage, where the clock tells them."""
    clock = probe.clock
    if not isinstance(clock, HostClock) or clock.device.type != "cpu":
        return {}
    other = Probe(_ProcessorClock())
    other.spans = probe.spans
    found = other.stages()
    if probe.spans["preprocess"]:
        found["preprocess"] = other.spent("preprocess")
    if steps := other.steps():
        found["decode"] = sorted(steps)[len(steps) // 2]
    return found


class _ProcessorClock:
    """Reads the second number of a `HostClock`'s marks."""

    def mark(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def between(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        return end[1] - start[1]
