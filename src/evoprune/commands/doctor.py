"""``evoprune doctor``: what this machine offers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from .. import tiny
from .._version import __version__
from ..ops import kernels
from ..tiny import video as tiny_video
from .errors import refused
from .terminal import emit, out, quiet

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "typer", "rich")
# Package and what it is for.
OPTIONAL = {
    "torchvision": "default image processors, video processors",
    "triton": "GPU kernels",
    "accelerate": 'device_map="auto"',
    "peft": "LoRA-wrapped models",
    "scipy": "intervals of the benchmark (extra: eval)",
    "matplotlib": "curves (extra: plots)",
    "av": "video files (extra: video)",
}


def run(*, as_json: bool) -> None:
    """Look around and print what was found."""
    quiet(shown=False)
    with refused(ValueError):
        kernels.fast()  # an unknown EVOPRUNE_KERNELS
    found = {
        "evoprune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "optional": {name: _version(name) for name in OPTIONAL},
        "devices": _devices(),
        "attention": _attention(),
        "gpu_kernels": _kernels(),
        "embedded_model": _embedded(tiny.folder()),
        "embedded_video_model": _embedded(tiny_video.folder()),
    }
    if as_json:
        emit(found)
    else:
        _show(found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    ]
    for index in range(torch.cuda.device_count()):
        seen = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": seen.name,
                "capability": f"{seen.major}.{seen.minor}",
                "memory_gib": round(seen.total_memory / 2**30, 1),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return devices


def _attention() -> dict[str, bool]:
    """Attention backends of transformers, and whether they can run here."""
    from transformers.utils import is_flash_attn_2_available, is_torch_flex_attn_available

    return {
        "eager": True,
        "sdpa": True,
        "flash_attention_2": bool(is_flash_attn_2_available()),
        "flex_attention": bool(is_torch_flex_attn_available()),
    }


def _kernels() -> dict[str, Any]:
    """Whether Triton kernels run here: where a GPU is, each is compiled and run once on a few tokens."""
    missing = []
    if not torch.cuda.is_available():
        missing.append("torch sees no CUDA device")
    if find_spec("triton") is None:
        missing.append("the package triton is not installed")
    if not missing and kernels.fast():
        from ..ops.kernels.probe import probe

        for index in range(torch.cuda.device_count()):
            probe(torch.device("cuda", index))
    return {
        "can_run": not missing,
        "missing": missing,
        "switch": {kernels.SWITCH: os.environ.get(kernels.SWITCH) or "auto", "choices": list(kernels.MODES)},
        "status": kernels.status(),
    }


def _embedded(folder: Path) -> dict[str, Any]:
    weights = folder / "model.safetensors"
    present = weights.is_file()
    return {"present": present, "mib": round(weights.stat().st_size / 2**20, 2) if present else None}


def _show(found: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("evoprune", found["evoprune"])
    table.add_row("python", f"{found['python']} on {found['platform']}")
    for name, seen in found["packages"].items():
        table.add_row(name, seen or "missing")
    for name, seen in found["optional"].items():
        table.add_row(name, f"{seen or 'not installed'} [dim]({OPTIONAL[name]})[/dim]")
    for device in found["devices"]:
        facts = ", ".join(f"{key} {value}" for key, value in device.items() if key not in ("device", "name"))
        table.add_row(device["device"], f"{device['name']}{', ' if facts else ''}{facts}")
    table.add_row("attention", ", ".join(f"{k} {'yes' if v else 'no'}" for k, v in found["attention"].items()))
    gpu = found["gpu_kernels"]
    table.add_row("GPU kernels", "can run" if gpu["can_run"] else f"cannot run: {'; '.join(gpu['missing'])}")
    for name, state in gpu["status"].items():
        table.add_row(f"  {name}", escape(state))
    table.add_row(
        "  switch", f"{kernels.SWITCH}={gpu['switch'][kernels.SWITCH]} [dim](off: plain torch everywhere)[/dim]"
    )
    for label, embedded in (("model", found["embedded_model"]), ("video model", found["embedded_video_model"])):
        size = f"{embedded['mib']} MiB" if embedded["present"] else "missing: install evoprune again"
        table.add_row(f"embedded {label}", size)
    out().print(table)
