"""Which model class of lmms-eval runs a model, and under which names it takes its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import unknown
from .facts import resolved

# Model classes of lmms-eval that run on models of transformers, by `config.model_type`; base=auto runs the others.
STOCK = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "internvl": "internvl_hf",
}


def config_of(name: str) -> Any:
    """Return the config of a model by name, folder or hub id; ValueError where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(resolved(name))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} is no model that transformers can load ({reason}): give a folder, or a hub id"
        ) from error


def arguments(base: str, wanted: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the model class, under the names that it has for them.

    Parameters
    ----------
    wanted
        Batch, dtype, device, attention and frames; None and ``"auto"`` leave the class its default.
    more
        Under the class's own names.

    Raises
    ------
    ValueError
        lmms-eval is missing, an unknown base, or an argument or a value that its class does not take.
    """
    from .arguments import parameters_of
    from .checks import check_types

    try:
        from .models import FRAMES as FRAME_NAMES
        from .models import base_class, check_batch

        takes = parameters_of(base_class(base))
    except ImportError as error:
        raise ValueError(
            f"base={base} of lmms-eval cannot be used ({error}): install the extra, pip install 'evoprune[eval]'"
        ) from error
    frames = next((name for name in FRAME_NAMES if name in takes), None)
    names = {"batch": "batch_size", "attention": "attn_implementation", "frames": frames}
    found = {}
    for key, value in wanted.items():
        name = names.get(key, key)
        if value in (None, "auto"):
            continue
        if name in takes:
            found[name] = value
        elif (key, value) != ("attention", "sdpa"):  # which classes without a choice have anyhow
            raise ValueError(f"base={base} of lmms-eval takes no {key}={value}: leave it out, or use base=auto")
    for name in more:
        if name not in takes:
            raise ValueError(unknown(f"argument of base={base}", name, takes))
    check_types(base_class(base), more)
    found |= more
    check_batch(base, found.get("batch_size", 1))
    return found
