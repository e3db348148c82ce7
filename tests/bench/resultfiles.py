"""Results as `evoprune bench` writes them, made up: every figure follows from its arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STAGES = {"encoder": ("encoder", "projector", "pre_llm", "whole")}
STAGES["all"] = ("preprocess", *STAGES["encoder"][:-1], "prefill", "ttft", "decode", "whole")
SHARES = {"preprocess": 0.1, "encoder": 1.0, "projector": 0.1, "prefill": 2.0, "decode": 0.05}
JITTER = (1.0, 0.98, 1.02, 1.01, 0.99)  # of the runs; their median is 1
MANIFEST = {
    "python": "3.12.3",
    "packages": {"torch": "2.11.0", "transformers": "5.17.0", "triton": "3.6.0"},
    "device": "NVIDIA H200",
    "threads": 1,
    "commit": "0123456789abcdef",
    "changed": False,
    "time": "2026-11-21T06:00:00+00:00",
    "command": "evoprune bench made-up",
}


def times(median: float) -> dict[str, Any]:
    runs = [median * by for by in JITTER]
    return {"median": median, "p10": min(runs), "p90": max(runs), "all": runs}


def arm(
    name: str,
    scale: float,
    *,
    flops: float | None = None,
    stages: str = "encoder",
    kept: int = 729,
    selection: float = 0.0,
    cpu: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """An arm whose encoder takes `scale` seconds and whose FLOPs are the share `flops` of the native ones."""
    kind = name if name in ("native", "native-read") else "pruned"
    flops = scale if flops is None else flops
    seconds = {part: SHARES[part] * scale for part in SHARES if part in STAGES[stages]}
    seconds["pre_llm"] = seconds["encoder"] + seconds["projector"]
    if stages == "all":
        seconds["ttft"] = sum(seconds[part] for part in ("preprocess", "encoder", "projector", "prefill"))
    seconds["whole"] = seconds.get("ttft", seconds["pre_llm"]) + seconds.get("decode", 0.0)
    if selection:
        seconds["selection"] = selection * seconds["encoder"]
    counted = {p: int(1e12 * SHARES[p] * flops) for p in ("encoder", "projector", "prefill") if p in seconds}
    return {
        "name": name, "kind": kind, "pruner": pruner(name, kept) if kind == "pruned" else None,
        "path": "naive" if name.endswith("naive") else "fast", "encoder_mode": "eager", "attention": "sdpa",
        "kept": kept, "visual_tokens": 2 * kept, "tokens": [729, kept],
        "seconds": {part: times(value) for part, value in seconds.items()},
        "cpu_seconds": {part: times(value) for part, value in seconds.items()} if cpu else None,
        "unaccounted": 0.01, "flops": counted,
        "flops_predicted": {"encoder": int(0.9e12 * flops), "selection": int(2e10 * bool(selection))},
        "memory": {"encoder": int(8 * 2**30 * flops), "whole": None}, "error": None, **changes,
    }  # fmt: skip


def pruner(name: str, keep: int) -> dict[str, Any]:
    method = name.split()[0]
    schedules = {"evoprune": {"schedule": "skip"}, "tome": {"schedule": "mean"}}
    return {"method": method, "keep": keep, **schedules.get(method, {})}


def cell(arms: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    known = {"images": None, "frames": 2, "batch": 1, "repeats": 5, "warmup": 2, "prompt_tokens": 1500}
    return {**known, **changes, "arms": arms}


def result(cells: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    known = {
        "format": "evoprune.bench/1", "manifest": MANIFEST, "command": "evoprune bench llava-video-7b --json out.json",
        "model": "llava-video-7b", "preset": {"name": "llava-video-7b"}, "stages": "encoder", "dtype": "bfloat16",
        "device": "cuda", "attention": "sdpa", "threads": 1,
    }  # fmt: skip
    return {**known, **changes, "cells": cells}


def video(**changes: Any) -> dict[str, Any]:
    """Native, native without unread layers, two budgets, the naive path and a rival."""
    names = [
        arm("native", 1.0),
        arm("native-read", 0.96),
        arm("evoprune 64", 0.55, flops=0.54, kept=64, selection=0.04),
        arm("evoprune 64 naive", 0.60, flops=0.54, kept=64, selection=0.12),
        arm("evoprune 16", 0.48, flops=0.466, kept=16, selection=0.06),
        arm("tome 64", 0.56, flops=0.54, kept=64, selection=0.03),
    ]
    return result([cell(names)], **changes)


def save(data: Any, path: Path) -> Path:
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")
    return path
