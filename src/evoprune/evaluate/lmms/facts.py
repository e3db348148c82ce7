"""What decides the answers of a model in lmms-eval, as JSON values: weights, class, prompts, versions."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ... import __version__
from ...tiny.defaults import EMBEDDED, folder

KINDS = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt")  # files of a model
WHOLE = 64 << 20  # bytes of a file that is hashed whole; larger ones count by their size and their ends


def resolved(name: str) -> str:
    """Return the folder or hub id that a model's name means."""
    return str(folder(name)) if name in EMBEDDED else os.path.expanduser(name)


def facts(name: str, base: str, config: Any) -> dict[str, Any]:
    """Return the model, its revision on the hub or the digest of its folder, its class, and the versions."""
    path = Path(resolved(name))
    files = sorted({file for kind in KINDS for file in path.glob(kind)}) if path.is_dir() else []
    return {
        "model": name,
        "revision": digest(*files) if files else getattr(config, "_commit_hash", None),
        "base": base,
        "prompts": "evoprune" if base == "auto" else "lmms-eval",
        "versions": {
            "evoprune": __version__,
            **{package: version(package) for package in ("lmms-eval", "torch", "transformers")},
        },
    }


def digest(*files: Path) -> str:
    """Return the SHA-256 of the names and contents of files; of a large one its size and its first and last bytes."""
    found = hashlib.sha256()
    for file in (one for one in files if one.is_file()):
        size = file.stat().st_size
        found.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as opened:
            found.update(opened.read(WHOLE))
            if size > WHOLE:
                opened.seek(-min(WHOLE, size - WHOLE), os.SEEK_END)
                found.update(opened.read())
    return found.hexdigest()
