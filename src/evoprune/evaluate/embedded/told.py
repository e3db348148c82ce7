"""Settings as what they say, for configurations that are compared on other machines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...bench.manifest import processor_name
from ...ops import kernels


def told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their names in order: of a file the digest of its contents, as a path says nothing."""
    return {name: _told(value) for name, value in sorted(values.items())}


def _told(value: Any) -> Any:
    if isinstance(value, (str, Path)) and Path(value).is_file():
        with Path(value).open("rb") as opened:
            return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()
    return value


def place(device: torch.device) -> dict[str, Any]:
    """Return the name of a device, and on CUDA the state of the library's kernels, which round differently."""
    if device.type != "cuda":
        return {"device": processor_name()}
    states = {name: state.partition(":")[0] for name, state in kernels.status().items()}
    return {"device": torch.cuda.get_device_name(device), "kernels": states}
