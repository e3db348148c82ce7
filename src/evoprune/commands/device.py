"""Devices and number types from what stands on the command line, and a clock that waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from .errors import UserError, first_line

DTYPES = ("auto", "float32", "float16", "bfloat16")


def choose_device(name: str) -> torch.device:
    """Return the torch device `name`, or the best one for ``"auto"``.

    Raises
    ------
    UserError
        There is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises any of the three
        raise UserError(f"--device {name!r} is not there ({first_line(error, 80)}): try auto or cpu") from error
    if device.type == "meta":
        raise UserError("--device 'meta' cannot compute: try auto or cpu")
    return device


def choose_dtype(name: str) -> torch.dtype | str:
    """Return the torch dtype `name`; ``"auto"``, the type that the weights are stored in, stays a word."""
    if name not in DTYPES:
        raise UserError(f"--dtype {name!r} is unknown: choose one of {', '.join(DTYPES)}")
    return name if name == "auto" else getattr(torch, name)


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return what `call` returns, and its milliseconds until `device` has finished."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    wait()
    start = time.perf_counter()
    result = call()
    wait()
    return result, 1000.0 * (time.perf_counter() - start)
