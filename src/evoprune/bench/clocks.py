"""What a probe reads at both ends of a stage: time, FLOPs so far, or the peak of memory since the last look."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode


class Clock(Protocol):
    """Marks are taken at the ends of a stage; what lies between two of them is read when all is over."""

    def mark(self) -> Any:
        """Note where things stand."""

    def between(self, start: Any, end: Any) -> float:
        """Return what was spent from one mark to the other."""


class HostClock:
    """Monotonic seconds, and the processor's beside them; waits for a device that has no events of its own."""

    def __init__(self, device: torch.device):
        self.device = device

    def mark(self) -> tuple[float, float]:
        wait(self.device)
        return time.perf_counter(), time.process_time()

    def between(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        return end[0] - start[0]

    def processor(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        """Return the processor's seconds from one mark to the other."""
        return end[1] - start[1]


class CudaClock:
    """Events on the current stream; recording one does not wait, reading them does not either once all is done."""

    def __init__(self, device: torch.device):
        self.device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000.0


class FlopClock:
    """What torch's counter has counted so far."""

    def __init__(self, counter: FlopCounterMode):
        self.counter = counter

    def mark(self) -> int:
        return int(self.counter.get_total_flops())

    def between(self, start: int, end: int) -> int:
        return end - start


class MemoryClock:
    """Peaks of memory between two marks, above what was in use at the first of them.

    On a CUDA device by torch's allocator; on the CPU by the peak resident size that Linux keeps and can begin anew.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.peaks: list[int] = []
        self.levels: list[int] = []

    @staticmethod
    def usable(device: torch.device) -> bool:
        """Whether this device tells peaks of memory."""
        if device.type == "cuda":
            return True
        try:
            _begin_peak()
            return device.type == "cpu" and _resident("VmHWM") > 0
        except OSError:
            return False

    def mark(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peaks.append(torch.cuda.max_memory_allocated(self.device))
            self.levels.append(torch.cuda.memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.peaks.append(_resident("VmHWM"))
            self.levels.append(_resident("VmRSS"))
            _begin_peak()
        return len(self.levels) - 1

    def between(self, start: int, end: int) -> int:
        return max(0, max(self.peaks[start + 1 : end + 1], default=0) - self.levels[start])


def stage_clock(device: torch.device) -> HostClock | CudaClock:
    """Return the clock for stages on `device`."""
    return CudaClock(device) if device.type == "cuda" else HostClock(device)


def wait(device: torch.device) -> None:
    """Wait until `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def counter() -> FlopCounterMode:
    """Return torch's counter, with a formula of its own for attention.

    On a CPU torch counts none, and elsewhere its releases before 2.12 refuse fewer key heads than query heads.
    """

    def formula(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        batch, heads, rows, width = query
        return 2 * batch * heads * rows * key[2] * (width + value[3])

    names = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    kinds = [getattr(torch.ops.aten, f"_scaled_dot_product_{name}") for name in names]
    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(kinds, formula))


def trim() -> None:
    """Give freed memory back to the system, so that the next peak is not hidden in it (glibc only)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _begin_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    return 0
