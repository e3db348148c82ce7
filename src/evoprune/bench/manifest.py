"""What a result was made with, so that it can be made again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "transformers", "numpy", "pillow", "triton")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "evoprune" if name == "__main__.py" else name


def _git(*words: str) -> str | None:
    """Answer of git about the source tree this module lies in, None where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def processor_name() -> str:
    """Return what the CPU of this machine calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def manifest(*extra: str, **facts: Any) -> dict[str, Any]:
    """Versions, device, commit and time of this run, with the caller's own `facts` (seeds, dtype, settings).

    Parameters
    ----------
    extra
        Further packages whose versions count.

    Returns
    -------
    dict
        JSON values only. ``changed`` tells whether the source tree differed from the commit, new files included. Where
        the source came without its history, the environment variable ``EVOPRUNE_COMMIT`` can name the commit.
    """
    status = _git("status", "--porcelain", "--", ":/src")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*_PACKAGES, *extra)},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "threads": torch.get_num_threads(),
        "commit": _git("rev-parse", "HEAD") or os.environ.get("EVOPRUNE_COMMIT"),
        "changed": None if status is None else bool(status),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([_program(), *sys.argv[1:]]),
        **facts,
    }
