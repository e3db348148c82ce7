"""The embedded benchmarks as lmms-eval sees them: what is shown, asked and counted as right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def image(doc: Mapping[str, Any]) -> list[Any]:
    """Return the scene as PIL image, in RGB."""
    return [doc["image"].convert("RGB")]


def video(doc: Mapping[str, Any]) -> list[str]:
    """Return the path of the clip: FFV1 without loss, 8 frames of RGB."""
    return [doc["video"]]


def text(doc: Mapping[str, Any]) -> str:
    """Return the bare question: the models were trained on it."""
    return doc["question"]


def result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return whether the answer is the right word, as `evoprune.tiny.benchmark.Result` counts it."""
    said = results[0].strip()
    score = float(said == doc["answer"])
    return {"exact_match": {"score": score, "kind": doc["kind"], "group": doc["group"]}}


def mean(items: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of right answers, 0 to 1."""
    return sum(item["score"] for item in items) / len(items)
