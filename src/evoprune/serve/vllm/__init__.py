"""vLLM's plug-in (entry point group ``vllm.general_plugins``): architectures that prune inside the vision encoder.

A server asks for them by name, so that one without the plug-in refuses to start instead of running unpruned::

    vllm serve llava-hf/llava-1.5-7b-hf --hf-overrides '{"architectures": ["EvoPruneLlavaForConditionalGeneration"],
        "evoprune": {"method": "evoprune", "keep": 64}}'

`evoprune serve` writes that command.
"""

from __future__ import annotations

import os

PREFIX = "EvoPrune"
# Architecture in a checkpoint's config -> module here with a class of that name, `PREFIX` before it.
NATIVE = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
}
BACKEND = "TransformersMultiModalForCausalLM"  # vLLM's Transformers backend, for the same models
CONNECTOR = "evoprune"  # a value of vLLM's environment variable VLLM_MEDIA_CONNECTOR


def register() -> None:
    """Tell vLLM the architectures of this plug-in; nothing of them is imported before a server asks for one."""
    from vllm import ModelRegistry

    for name, module in NATIVE.items():
        ModelRegistry.register_model(PREFIX + name, f"{__name__}.{module}:{PREFIX}{name}")
    ModelRegistry.register_model(PREFIX + BACKEND, f"{__name__}.backend:{BACKEND}")
    if os.environ.get("VLLM_MEDIA_CONNECTOR") == CONNECTOR:
        from . import media  # noqa: F401  # registers itself
