"""The tower as one compiled graph or as CUDA graphs: with one picture its time is launches, not arithmetic.

Shapes are static by construction, so each shape of arguments is compiled or captured once. Whatever a graph cannot do
(gradients, training, every hidden state, a tower that waits for the host) runs as without it.
"""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any

import torch

from ..errors import unknown
from ..ops import kernels
from .base import Family
from .chunks import needed
from .recording import Recording, cuda_graphs
from .state import TowerState
from .trees import outline
from .undo import set_attribute

MODES = ("eager", "compile", "cudagraph")
LIMIT = 8  # shapes of arguments whose graphs are kept
BACKEND = "inductor"  # of torch.compile

Graph = Callable[[Any], Any]  # from (args, kwargs) to the tower's output


class Graphs:
    """Runs the tower by graphs, one for each outline of its arguments, the least recently used dropped first.

    Parameters
    ----------
    make
        Makes the graph of a forward for arguments like those given.
    fixed
        Whether graphs read the weights at fixed places in memory: then they take tensors beside them only, no autocast,
        and are made anew when the weights move.

    Attributes
    ----------
    ran
        How the tower ran last: ``"eager"`` where its graph could not be used.
    """

    def __init__(
        self,
        mode: str,
        family: Family,
        state: TowerState,
        make: Callable[[Callable[..., Any], Any], Graph],
        fixed: bool,
    ):
        self.mode, self.family, self.state, self.make, self.fixed = mode, family, state, make, fixed
        self.graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self.weights = [*family.tower.parameters(), *family.tower.buffers()]
        self.places: list[int] = []
        self.failed = False
        self.ran = "eager"

    def install(self, stack: ExitStack) -> None:
        """Let the tower's `forward` run by graphs until `stack` closes."""
        stack.callback(self.graphs.clear)
        original = self.family.tower.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self._serves((args, kwargs)):
                self.ran = "eager"
                return original(*args, **kwargs)
            return self._run(original, (args, kwargs))

        set_attribute(self.family.tower, "forward", forward, stack)

    def _serves(self, arguments: Any) -> bool:
        state = self.state
        if self.failed or not state.active or state.run_all or torch.is_grad_enabled() or self.family.tower.training:
            return False
        if not self.fixed:
            return True
        device, given = self.weights[0].device, (*arguments[0], *arguments[1].values())
        beside = all(one.device == device for one in given if isinstance(one, torch.Tensor))
        return beside and not torch.is_autocast_enabled(device.type)

    def _run(self, original: Callable[..., Any], arguments: Any) -> Any:
        try:
            output = self._graph(original, arguments)(arguments)
        except Exception as error:
            # Where the user's arguments are to blame, this raises what it raises without graphs.
            self._forget()
            self.ran = "eager"
            output = original(*arguments[0], **arguments[1])
            self._give_up(error)
            return output
        self.ran = self.mode
        return output

    def _graph(self, original: Callable[..., Any], arguments: Any) -> Graph:
        places = [weight.data_ptr() for weight in self.weights] if self.fixed else []
        if places != self.places:  # moved, or of another dtype
            self.graphs.clear()
            self.places = places
        budgets = tuple(self.state.run.budgets)  # a picture's and a frame's differ though their grids are equal
        key = torch.is_inference_mode_enabled(), kernels.fast(), budgets, outline(arguments)
        if key not in self.graphs:
            self.graphs[key] = self.make(original, arguments)
            if len(self.graphs) > LIMIT:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(key)
        return self.graphs[key]

    def _forget(self) -> None:
        """Empty what a run that failed in the middle of a block has left; on the run in progress it noted nothing."""
        for module in self.family.tower.modules():
            tap = module.__dict__.get("_evoprune_tap")
            if tap is not None:
                tap.forget()

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        self.graphs.clear()
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        warnings.warn(
            f"encoder_mode={self.mode!r} does not work with the tower of {self.family.name} here, which runs eagerly "
            f"from now on: {type(error).__name__}: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def compiled(forward: Callable[..., Any]) -> Graph:
    """Return `forward` as one compiled graph.

    In several graphs, as a tower that reads sizes on the host would need, each block is compiled by itself, and soon
    more versions are asked for than torch keeps: such a tower is better left alone.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    # What is compiled is kept by code object, and only a few versions of one: each graph gets its own.
    run.__code__ = run.__code__.replace()
    graph = torch.compile(run, backend=BACKEND, dynamic=False, fullgraph=True)
    return lambda arguments: graph(*arguments[0], **arguments[1])


def install_graphs(mode: str, family: Family, state: TowerState, stack: ExitStack) -> Graphs | None:
    """Let the tower run in `mode` until `stack` closes; install before `install_tower`, whose chunks then lead here.

    Raises
    ------
    ValueError
        Unknown mode, or CUDA graphs of a tower that is not on one CUDA device.
    """
    if mode not in MODES:
        raise ValueError(unknown("encoder_mode", mode, MODES))
    if mode == "eager":
        return None
    if mode == "compile":
        _install_capturing(family.tower)
        graphs = Graphs(mode, family, state, lambda forward, _: compiled(forward), fixed=False)
    else:
        new_recorder = cuda_graphs(_one_cuda_device(family))

        def record(forward: Callable[..., Any], arguments: Any) -> Graph:
            def slim(*args: Any, **kwargs: Any) -> Any:
                return needed(forward(*args, **kwargs), family, state)

            return Recording(new_recorder(), state, slim, arguments)

        graphs = Graphs(mode, family, state, record, fixed=True)
    graphs.install(stack)
    return graphs


def _install_capturing(tower: Any) -> None:
    """Do now what transformers does in a tower's first forward, behind a lock that no graph can hold."""
    from transformers import PreTrainedModel
    from transformers.utils import output_capturing

    if isinstance(tower, PreTrainedModel):
        output_capturing.maybe_install_capturing_hooks(tower)


def _one_cuda_device(family: Family) -> torch.device:
    places = {weight.device for weight in family.tower.parameters()}
    if len(places) != 1 or next(iter(places)).type != "cuda":
        raise ValueError(
            "encoder_mode='cudagraph' needs the vision tower on one CUDA device, but it is on "
            f"{', '.join(sorted(map(str, places)))}: move it there first, or use encoder_mode='compile' or 'eager'"
        )
    return places.pop()
