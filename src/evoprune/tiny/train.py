"""Train an embedded model: ``python -m evoprune.tiny.train --out runs/tiny``; run it again to resume.

The image model has three stages: a shallow tower learns dense labels (digit, colour, count and place a patch) and what
the scene holds (CLS token); the language model joins; then every tower layer is followed by a new one that begins as
the identity, and everything trains on. With ``--video`` it is the video model, which starts from the image model.
Visual tokens are never dropped, merged or masked here: that keeps the models a fair testbed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .plan import Plan
from .run import Run

__all__ = ["Plan", "Run", "main"]


def main(words: list[str] | None = None) -> None:
    """Command line of the training script; `words` are its arguments, those of the process if None."""
    words = sys.argv[1:] if words is None else words
    video = "--video" in words
    kind: Any = Run
    plans: Any = Plan
    if video:
        from .video.plan import VideoPlan as plans
        from .video.run import VideoRun as kind
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", action="store_true", help="train the video model")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-video" if video else "runs/tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--every", type=int, default=50, help="steps between log rows")
    for name, value in asdict(plans()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(words)
    plan = plans(**{name: getattr(options, name) for name in asdict(plans())})
    run = kind(options.out, plan, torch.device(options.device))
    with (options.out / "log.jsonl").open("a") as log:
        log.write(json.dumps({"plan": asdict(plan), "step": run.step}) + "\n")  # a resumed run may change its plan
        for row in run.rows(options.every, save_seconds=300):
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
