"""Time around a whole call: CUDA events on a GPU, read only when somebody asks, a clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timer:
    """Time of the last call measured, in milliseconds."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @contextmanager
    def measure(self, device: torch.device | None) -> Iterator[None]:
        on_gpu = device is not None and device.type == "cuda"
        self._seconds = self._events = None
        if on_gpu:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record(torch.cuda.current_stream(device))
        start = time.perf_counter()
        yield
        self._seconds = time.perf_counter() - start
        if on_gpu:
            events[1].record(torch.cuda.current_stream(device))
            self._events = events

    @property
    def milliseconds(self) -> float | None:
        """Milliseconds of the last call that ended well, None before the first; waits for the GPU."""
        if self._events is not None:
            self._events[1].synchronize()
            return self._events[0].elapsed_time(self._events[1])
        return None if self._seconds is None else 1000.0 * self._seconds
