"""What keeps vLLM from starting with this plug-in here; nothing of vLLM is imported to find out."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

TESTED = "0.32"  # the release of vLLM whose parts the plug-in overrides
GROUP, PLUGIN = "vllm.general_plugins", "evoprune"
INSTALL = "pip install 'evoprune[serve]'"


def vllm_version() -> str | None:
    """Return the version of vLLM in this environment, None where there is none."""
    try:
        return version("vllm") if find_spec("vllm") else None
    except PackageNotFoundError:
        return None


def on_cpu() -> bool:
    """Whether this environment's vLLM is one for the CPU."""
    return "cpu" in (vllm_version() or "")


def program() -> str | None:
    """Return the path of the program vllm of this environment, None where there is none."""
    beside = Path(sys.executable).with_name("vllm")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("vllm")


def problems(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each thing that is in the way, none where vLLM can start and will load the plug-in.

    Parameters
    ----------
    environment
        The variables that vLLM will see.
    """
    found = vllm_version()
    if found is None:
        return [
            f"vLLM is not installed in this environment: {INSTALL} (for a machine without a GPU see docs/serving.md)"
        ]
    told = []
    if not found.startswith(f"{TESTED}."):
        told.append(f"vLLM {found} is installed, but the plug-in is tested on {TESTED} only: {INSTALL}")
    if program() is None:
        told.append(f"the program vllm is not beside {Path(sys.executable).name}, and not on PATH: {INSTALL}")
    if PLUGIN not in {one.name for one in entry_points(group=GROUP)}:
        told.append(
            f"the plug-in {PLUGIN!r} is not registered with vLLM (entry point group {GROUP}), so that it would not be "
            f"loaded: install evoprune as a package, {INSTALL}"
        )
    allowed = environment.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        told.append(
            f"VLLM_PLUGINS={allowed!r} switches the plug-in off: add {PLUGIN!r} to it, or leave the variable unset"
        )
    return told
