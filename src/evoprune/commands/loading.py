"""Loads a model by folder, hub id or the name of an embedded one, and says in one sentence why it cannot."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..apply import apply
from ..models import FAMILIES, find
from ..pruners import Pruner
from ..tiny.defaults import EMBEDDED as EMBEDDED
from ..tiny.defaults import defaults as defaults
from ..tiny.defaults import folder as embedded
from .clips import check_takes_video
from .errors import UserError, first_line, refused
from .terminal import progress, quiet

# What the loaders of transformers raise for files that are missing, broken, or of something else.
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, StrictDataclassError)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load(
    name: str,
    pruners: Sequence[Pruner],
    device: torch.device,
    dtype: torch.dtype | str = "auto",
    shown: bool = False,
    *,
    options: Mapping[str, Any] | None = None,
    video: bool = False,
) -> tuple[Any, Any]:
    """Return the model, in eval mode, and its processor.

    The pruners are tried on the model's shapes before any weight is fetched or read.

    Parameters
    ----------
    options
        What `evoprune.apply` is given beside the pruners, tried with them.
    video
        Whether the model is to take videos.

    Raises
    ------
    UserError
        No model there, no supported tower, counts that the model cannot give, or no place for a video.
    """
    quiet(shown)
    folder = resolve(name)
    bare = skeleton(name, folder)
    with refused(ValueError):
        family = find(bare)
    # Downloads show the hub's own bars, one a file; two displays at once would garble each other.
    with progress(shown and os.path.isdir(folder)) as bars:
        bars.add_task(f"Loading {name}", total=None)
        processor = _processor(name, folder)
        if pruners:
            with refused(ValueError):
                apply(bare, pruners, tokenizer=getattr(processor, "tokenizer", None), **(options or {})).remove()
        if video:
            check_takes_video(name, processor, family)
        return _weights(name, folder, dtype).to(device).eval(), processor


def resolve(name: str) -> str:
    """Return the folder or hub id that `name` means.

    Raises
    ------
    UserError
        A folder without a model, or neither a folder nor a possible hub id.
    """
    path = embedded(name) if name in EMBEDDED else Path(os.path.expanduser(name))
    # os.path, as a name that no file system takes (too long, an unknown ~user) makes pathlib raise.
    if os.path.isdir(path):
        if not os.path.isfile(path / "config.json"):
            raise UserError(f"{path} is no model: it has no config.json, give a folder that save_pretrained wrote")
        return str(path)
    if os.path.exists(path):
        raise UserError(f"{path} is a file: give the folder of a model, or a hub id such as {FAMILIES[0].examples[0]}")
    if name in EMBEDDED:
        raise UserError(f"the embedded model is missing at {path}: install evoprune again")
    if name.startswith((".", "~", "/")) or not _HUB_ID.fullmatch(name):
        raise UserError(f"{name} does not exist: give the folder of a model, or a hub id")
    return name


def skeleton(name: str, folder: str | None = None) -> Any:
    """Return the model without weights, on the meta device; `folder` is what `resolve` gives."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = folder or resolve(name)
    try:
        config = AutoConfig.from_pretrained(folder)
    except BROKEN as error:
        raise UserError(not_found(name, folder, error)) from error
    with refused(ValueError):
        if config.model_type not in {kind for family in FAMILIES for kind in family.model_types}:
            find(_named(config))
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except BROKEN as error:
        raise UserError(
            f"{name} has a config that makes no model ({first_line(error)}): check its config.json"
        ) from error


def _named(config: Any) -> torch.nn.Module:
    """Return nothing but a config, for the library's own sentence about models that it does not know."""
    name = (getattr(config, "architectures", None) or ["This model"])[0]
    return type(name, (torch.nn.Module,), {"config": config})()


def not_found(name: str, folder: str, error: Exception) -> str:
    """Return one sentence on a model that cannot be loaded from `folder`, for which `name` was written."""
    if os.path.isdir(folder):
        return f"{folder} is no model that transformers can load ({first_line(error)}): check its config.json"
    return (
        f"{name!r} is no folder here, and the Hugging Face hub did not give it ({first_line(error)}): check the "
        "spelling, the network and, for a gated model, your login"
    )


def _processor(name: str, folder: str) -> Any:
    from transformers import AutoProcessor

    try:
        # The embedded model's pictures are prepared by PIL: the same numbers with and without torchvision.
        return AutoProcessor.from_pretrained(folder, **({"backend": "pil"} if name == "tiny" else {}))
    except BROKEN as error:
        raise UserError(
            f"{name} has no processor that can be loaded ({first_line(error)}): save one beside the model with "
            "processor.save_pretrained"
        ) from error


def _weights(name: str, folder: str, dtype: torch.dtype | str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    if name in EMBEDDED and dtype == "auto":
        dtype = torch.float32  # stored in float16 to be small, meant to run in float32
    try:
        # Weights of other shapes are let through and refused below: transformers would only point at a log.
        model, found = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (*BROKEN, SafetensorError) as error:
        raise UserError(
            f"the weights of {name} cannot be loaded ({first_line(error)}): fetch or save them again"
        ) from error
    # transformers would fill these with random numbers, and the model would answer nonsense.
    odd = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if odd:
        raise UserError(
            f"the weights of {name} do not fit its config: {len(odd)} are missing or of another shape, first "
            f"{odd[0]}; fetch or save them again"
        )
    return model
