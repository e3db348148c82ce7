"""Whether a model, a class of lmms-eval and this machine fit, asked before anything is loaded or written."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import torch

from ...errors import unknown
from .arguments import parameters_of
from .setup import STOCK

DTYPES = ("float32", "float16", "bfloat16", "float64")
_SIMPLE = (int, float, bool, str, type(None))


def check_base(base: str, model_type: str, name: str) -> None:
    """Refuse a class of lmms-eval that is known to be for other models; ValueError with the one to take."""
    takes = [kind for kind, one in STOCK.items() if one == base]
    if takes and model_type not in takes:
        raise ValueError(
            f"base={base} runs models of the type {' or '.join(takes)}, and {name} is of the type {model_type}: leave "
            f"the base out, or use base={STOCK.get(model_type, 'auto')}"
        )


def check_machine(arguments: Mapping[str, Any]) -> None:
    """Refuse what transformers or torch would fail at when the model is loaded.

    Parameters
    ----------
    arguments
        Of the model class.

    Raises
    ------
    ValueError
        A dtype that is none, a device that is not there, or FlashAttention without its package.
    """
    dtype, device = arguments.get("dtype", "auto"), arguments.get("device")
    if not isinstance(dtype, torch.dtype) and str(dtype) not in ("auto", *DTYPES):
        raise ValueError(unknown("dtype", dtype, ["auto", *DTYPES]))
    if device is not None:
        _check_device(device)
    if arguments.get("attn_implementation") == "flash_attention_2" and not _has_flash_attention():
        raise ValueError(
            "attention flash_attention_2 needs a GPU and the package flash-attn, which cannot be used here: install "
            "it, or take sdpa"
        )


def _check_device(device: Any) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # torch raises any of these
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        raise ValueError(f"device={device} is not there ({reason}): use auto or cpu") from error
    if torch.device(device).type == "meta":
        raise ValueError("device=meta cannot compute: use auto or cpu")


def _has_flash_attention() -> bool:
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    return is_flash_attn_2_available() or (torch.cuda.is_available() and is_kernels_available())  # a kernel of the hub


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse values of another type than the signature of the model class says, where it says one.

    Raises
    ------
    ValueError
        With the value and the type.
    """
    defaults = parameters_of(kind)
    hints: dict[str, Any] = {}
    for one in reversed(kind.__mro__):
        hints |= _hints(one)
    for name, value in values.items():
        allowed = _allowed(hints.get(name), defaults.get(name))
        fits = type(value) in allowed or (float in allowed and type(value) is int)
        if allowed and not fits:
            words = " or ".join("null" if one is type(None) else one.__name__ for one in allowed)
            raise ValueError(f"{name}={value!r} is of the wrong type: {kind.__name__} of lmms-eval takes {words}")


def _hints(kind: type) -> dict[str, Any]:
    if "__init__" not in kind.__dict__ or kind is object:
        return {}
    try:
        return typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can read
        return {}


def _allowed(hint: Any, default: Any) -> tuple[type, ...]:
    """Return the plain types that a parameter takes, none where that cannot be told."""
    if hint is None:
        return (type(default),) if type(default) in (int, float, bool) else ()
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    return members if all(one in _SIMPLE for one in members) else ()
