"""Honest placeholder counts in the processor: an option for engines that do not go through the entry shim."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from ..pruners import Pruner
from .base import chain
from .undo import set_attribute

PATCHED = "_evoprune_patched"
# Attributes of processors that put other tokens between an image's placeholders, or around them.
SURROUNDING = ("full_image_sequence", "fake_image_token", "start_image_token")


class ProcessorHandle:
    """Undoes `patch_processor`; also a context manager."""

    def __init__(self, stack: ExitStack):
        self._stack = stack

    def remove(self) -> None:
        """Restore the processor; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> ProcessorHandle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def patch_processor(processor: Any, pruner: Pruner | Sequence[Pruner]) -> ProcessorHandle:
    """Let `processor` write as many image placeholders as the pruner leaves.

    The entry shim of `evoprune.apply` does not need it, and works with it: it sees that a prompt is short already.

    Parameters
    ----------
    processor
        A processor of transformers 5.17 or later with `replace_image_token` (LLaVA's).
    pruner
        The same pruner, or list of pruners, that is applied to the model.

    Returns
    -------
    ProcessorHandle
        `remove()` restores the processor.

    Raises
    ------
    ValueError
        The processor is patched already, has no `replace_image_token`, or a count is above an image's tokens.
    """
    pruners = (pruner,) if isinstance(pruner, Pruner) else tuple(pruner)
    missing = [name for name in ("replace_image_token", "image_token") if not hasattr(processor, name)]
    if missing:
        raise ValueError(
            f"{type(processor).__name__} has no {' and no '.join(missing)}: leave it as it is, the model's entry shim "
            "shortens its prompts"
        )
    for name in SURROUNDING:
        if hasattr(processor, name):
            raise ValueError(
                f"{type(processor).__name__} writes more than placeholders for an image ({name}): leave it as it is, "
                "the model's entry shim shortens its prompts"
            )
    if hasattr(getattr(processor, "image_processor", None), "image_grid_pinpoints"):
        raise ValueError(
            f"{type(processor).__name__} cuts pictures into tiles that each keep as many tokens: leave it as it is, "
            "the model's entry shim shortens its prompts"
        )
    if processor.__dict__.get(PATCHED):
        raise ValueError("this processor has a pruner applied already: call remove() on its handle first")
    prefix = _prefix(processor)
    with ExitStack() as stack:
        set_attribute(processor, PATCHED, True, stack)
        _patch_text(processor, pruners, prefix, stack)
        _patch_counts(processor, pruners, prefix, stack)
        return ProcessorHandle(stack.pop_all())


def _prefix(processor: Any) -> int:
    """Placeholders of an image that stand for no patch: CLS, where it is not dropped."""
    additional = int(getattr(processor, "num_additional_image_tokens", 0) or 0)
    return 0 if getattr(processor, "vision_feature_select_strategy", None) == "default" else additional


def _short(processor: Any, pruners: tuple[Pruner, ...], full: int, prefix: int) -> int:
    """Return how many of an image's `full` placeholders stay."""
    # Qwen's: pictures of any size, of which small ones may have fewer tokens than an int `keep`.
    varies = hasattr(getattr(processor, "image_processor", None), "merge_size")
    return chain(pruners, full - prefix, lenient=varies) + prefix


def _patch_text(processor: Any, pruners: tuple[Pruner, ...], prefix: int, stack: ExitStack) -> None:
    original = processor.replace_image_token

    @functools.wraps(original)
    def replace_image_token(*args: Any, **kwargs: Any) -> str:
        text, token = original(*args, **kwargs), processor.image_token
        full = text.count(token)
        if token * full != text:
            raise ValueError(
                f"{type(processor).__name__} writes more than placeholders for an image: leave it as it is, the "
                "model's entry shim shortens its prompts"
            )
        return token * _short(processor, pruners, full, prefix)

    set_attribute(processor, "replace_image_token", replace_image_token, stack)


def _patch_counts(processor: Any, pruners: tuple[Pruner, ...], prefix: int, stack: ExitStack) -> None:
    original = getattr(processor, "_get_num_multimodal_tokens", None)
    if original is None:
        return

    @functools.wraps(original)
    def get_num_multimodal_tokens(*args: Any, **kwargs: Any) -> Any:
        counts = original(*args, **kwargs)
        if getattr(counts, "num_image_tokens", None) is not None:
            counts.num_image_tokens = [_short(processor, pruners, full, prefix) for full in counts.num_image_tokens]
        return counts

    set_attribute(processor, "_get_num_multimodal_tokens", get_num_multimodal_tokens, stack)
