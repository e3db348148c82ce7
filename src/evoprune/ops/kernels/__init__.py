"""The functions of `evoprune.ops` as Triton kernels, and the switch between the two.

``EVOPRUNE_KERNELS`` chooses: ``auto`` (the default: kernels on CUDA), ``off`` (the plain torch functions everywhere),
``interpret`` (for tests: kernels on CPU tensors too, by Triton's interpreter, with ``TRITON_INTERPRET=1`` set before
triton is imported). Importing this package does not import triton: the modules in it do, at their first use.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...errors import unknown

Result = TypeVar("Result")
SWITCH = "EVOPRUNE_KERNELS"
MODES = ("auto", "off", "interpret")
NAMES = ("received", "density", "scores", "merging", "order")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Open `reference_path` blocks, of all threads: at worst a thread beside one takes the slower path for a while.
_plain = 0
# (kernel, device) -> why it does not run there.
_failures: dict[tuple[str, str], str] = {}


def fast() -> bool:
    """Return whether kernels and other fast paths may be taken: not under ``EVOPRUNE_KERNELS=off`` and not inside
    `reference_path`.

    Raises
    ------
    ValueError
        ``EVOPRUNE_KERNELS`` has a value that nobody knows.
    """
    return _plain == 0 and _mode() != "off"


@contextmanager
def reference_path() -> Iterator[None]:
    """Take the plain torch functions until the block closes."""
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def usable(*tensors: Tensor | None) -> bool:
    """Return whether the kernels can take these tensors: `fast`, with triton, all on one CUDA device (CPU in
    interpret mode), the floating ones in float32, bfloat16 or float16, and no gradient wanted (the kernels have none).
    """
    if not fast():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if not given or not _has_triton():
        return False
    device = given[0].device
    if device.type != ("cpu" if _mode() == "interpret" else "cuda"):
        return False
    return all(_takes(tensor, device) for tensor in given)


def _takes(tensor: Tensor, device: torch.device) -> bool:
    if tensor.device != device or (tensor.is_floating_point() and tensor.dtype not in DTYPES):
        return False
    if torch.is_grad_enabled() and tensor.requires_grad:
        return False
    # A subclass (a fake tensor, a sharded one) has no memory of its own that a kernel could read.
    return torch.compiler.is_compiling() or type(tensor) in (Tensor, torch.nn.Parameter)


def attempt(name: str, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result | None:
    """Run a kernel; None where it cannot run, so that the caller takes the plain path.

    The first failure of a kernel on a device is warned of and remembered: later calls return None at once. Under
    `torch.compile` nothing is caught, as there the kernel runs after this function has returned.

    Parameters
    ----------
    name
        One of `NAMES`, as `status` shows it.
    function
        Called with the rest; the first tensor or device among `args` tells where it runs.
    """
    named = [value for value in args if isinstance(value, (Tensor, torch.device))] or [torch.device("cpu")]
    device = named[0].device if isinstance(named[0], Tensor) else named[0]
    if _failed(name, str(device)):
        return None
    if torch.compiler.is_compiling():
        return function(*args, **kwargs)
    try:
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return function(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise  # says nothing about the kernel, and the plain path needs more
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        _failures[name, str(device)] = why
        warnings.warn(
            f"the Triton kernel '{name}' does not run on {device} ({why}); the plain path runs instead, and "
            f"{SWITCH}=off turns all kernels off",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def status() -> dict[str, str]:
    """Return what is known of each kernel: "ready", "interpreted", or why it does not run.

    Failures are those met so far in this process; `evoprune.ops.kernels.probe.probe` goes and looks.
    """
    names = dict.fromkeys((*NAMES, *(name for name, _ in _failures)))
    return {name: _state(name) for name in names}


def _state(name: str) -> str:
    failed = [f"{why} ({device})" for (kernel, device), why in _failures.items() if kernel == name]
    if _mode() == "off":
        return f"off ({SWITCH}=off)"
    if not _has_triton():
        return "no triton"
    if failed:
        return f"failed: {'; '.join(failed)}"
    if _mode() == "interpret":
        return "interpreted"
    return "ready" if torch.cuda.is_available() else "no CUDA device"


@torch.compiler.assume_constant_result
def _mode() -> str:
    mode = os.environ.get(SWITCH, "").strip().lower() or "auto"
    if mode not in MODES:
        raise ValueError(unknown(SWITCH, mode, MODES))
    return mode


@torch.compiler.assume_constant_result
def _has_triton() -> bool:
    return find_spec("triton") is not None


@torch.compiler.assume_constant_result
def _failed(name: str, device: str) -> bool:
    return (name, device) in _failures
