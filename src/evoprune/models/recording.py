"""One run of the tower recorded and replayed: static inputs, static outputs, and copies for whoever calls.

A recording replays the kernels of one forward, not its Python: what the hooks noted on the run in progress (which units
merged into which) are tensors of the recording too. Each replay hands out copies of all, so that nothing that a caller
or `handle.stats` keeps is overwritten by the next one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from .state import Run, TowerState
from .trees import mapped, tensors

WARM_UPS = 2
_FIXED = {"plan", "modality", "images", "groups", "budget", "items", "device"}  # of runs and groups: known from shapes


class Recorder(Protocol):
    """Records a function of no arguments once and runs it again on the same memory."""

    def capture(self, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Record `run` and return its results, the tensors that every replay overwrites."""

    def replay(self) -> None:
        """Run again what was recorded."""


class CudaGraph:
    """`Recorder` of CUDA kernels, on a side stream and in a pool of memory that all recordings of a tower share.

    They may share it because none runs beside another, and each hands out copies before the next one begins.
    """

    def __init__(self, side: torch.cuda.Stream, pool: Any):
        self.side, self.pool = side, pool
        self.graph = torch.cuda.CUDAGraph()

    def capture(self, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Warm up first, and refuse there what waits for the GPU: a capture that fails would leave traces."""
        with torch.cuda.device(self.side.device):
            now = torch.cuda.current_stream()
            self.side.wait_stream(now)
            with torch.cuda.stream(self.side):
                for _ in range(WARM_UPS):  # kernels are compiled, constants made, workspaces allocated
                    run()
                with _no_waiting():
                    run()
            now.wait_stream(self.side)
            with torch.cuda.graph(self.graph, self.pool, self.side, capture_error_mode="thread_local"):
                return run()

    def replay(self) -> None:
        self.graph.replay()


def cuda_graphs(device: torch.device) -> Callable[[], Recorder]:
    """Return what makes the recorders of one tower."""
    with torch.cuda.device(device):
        side, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(side, pool)


@contextmanager
def _no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_mode("error")
    try:
        yield
    finally:
        _set_sync_mode(before)


def _set_sync_mode(mode: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that the mode is a prototype
        torch.cuda.set_sync_debug_mode(mode)


class Recording:
    """`forward` of a tower for arguments of one outline.

    Parameters
    ----------
    recorder
        What captures and replays.
    state
        Its run in progress is the one that this recording is made in; replays write to the run of their own time.
    forward
        Of the tower, with all hooks on its blocks.
    arguments
        ``(args, kwargs)`` of the call that it is made for.
    """

    def __init__(self, recorder: Recorder, state: TowerState, forward: Callable[..., Any], arguments: Any):
        self.recorder, self.state, self.forward = recorder, state, forward
        self.arguments = mapped(arguments, torch.clone)
        self.inputs = tensors(self.arguments)
        self.output: Any = None
        self.notes: Any = None
        self.static = recorder.capture(self._run)

    def _run(self) -> list[Tensor]:
        (args, kwargs), current = self.arguments, self.state.run
        self.state.run = scratch(current)
        try:
            self.output, self.notes = self.forward(*args, **kwargs), notes(self.state.run)
        finally:
            self.state.run = current
        return [*tensors(self.output), *_packed(tensors(self.notes))]

    def __call__(self, arguments: Any) -> Any:
        """Return what `forward` returns for `arguments`, and note on the run in progress what happened."""
        for buffer, value in zip(self.inputs, tensors(arguments), strict=True):
            buffer.copy_(value)
        self.recorder.replay()
        copies = [one.clone() for one in self.static]
        own = iter(copies)
        output = mapped(self.output, lambda _: next(own))
        parts = iter(_unpacked(list(own), tensors(self.notes)))
        restore(self.state.run, mapped(self.notes, lambda _: next(parts)))
        return output


def scratch(run: Run) -> Run:
    """Return a run of the same items to which a forward can write in the place of `run`."""
    made = copy.copy(run)
    made.groups = [copy.copy(group) for group in run.groups]
    restore(made, mapped(notes(run), lambda one: one))
    return made


def notes(run: Run) -> list[dict[str, Any]]:
    """Return what a forward has noted on a run: its own attributes, then those of each group."""
    return [{name: value for name, value in vars(o).items() if name not in _FIXED} for o in (run, *run.groups)]


def restore(run: Run, noted: list[dict[str, Any]]) -> None:
    """Give a run what `notes` returned."""
    for owner, values in zip((run, *run.groups), noted, strict=True):
        vars(owner).update(values)


def _packed(found: list[Tensor]) -> list[Tensor]:
    """Return one flat tensor for each dtype: copied in one launch, where there are four tensors a merge."""
    return [torch.cat([one.reshape(-1) for one in found if one.dtype == kind]) for kind in _dtypes(found)]


def _unpacked(flat: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """Return tensors of the shapes of `like` from what `_packed` returned."""
    parts = {
        kind: iter(one.split([part.numel() for part in like if part.dtype == kind]))
        for kind, one in zip(_dtypes(like), flat, strict=True)
    }
    return [next(parts[part.dtype]).view(part.shape) for part in like]


def _dtypes(found: list[Tensor]) -> list[torch.dtype]:
    return list(dict.fromkeys(one.dtype for one in found))
