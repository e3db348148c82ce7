"""The facts of a run of gpu.sh, and what came of its steps, in one file that report.py reads.

python benchmarks/gpu_facts.py --device cuda FILE       what the run is made with; 1 where there is no such device
python benchmarks/gpu_facts.py --steps STEPS FILE       adds the steps so far
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

FORMAT = "evoprune.gpu/1"
QUERY = "name,driver_version,memory.total,clocks.max.sm,power.limit"


def smi() -> str | None:
    """Return what nvidia-smi tells of the first device, None where it tells nothing."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


def facts(device: str) -> dict[str, Any]:
    """Return the file's content before the first step; SystemExit where the device is missing."""
    import torch

    from evoprune.bench import manifest

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "there is no CUDA device here: run this on a machine with one, or try the script with --device cpu --tiny"
        )
    return {"format": FORMAT, "manifest": manifest(), "gpu": smi(), "steps": []}


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps noted in a file of tab-separated lines: name, seconds, budget, outcome."""
    rows = [line.split("\t", 3) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {"name": name, "seconds": int(seconds), "budget": int(budget), "outcome": outcome}
        for name, seconds, budget, outcome in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.steps is None:
        data = facts(given.device)
    elif given.file.exists():
        data = json.loads(given.file.read_text(encoding="utf-8")) | {"steps": steps(given.steps)}
    else:
        return  # the facts themselves failed
    given.file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
