"""What came back from a server, request by request, and the figures that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One request as its client saw it.

    Attributes
    ----------
    ttft
        Seconds from sending it to the first token.
    latency
        Seconds from sending it to the last token.
    prompt, answer
        Tokens, as the server counts them; 0 where it did not say.
    error
        Why it failed, "" where it did not.
    """

    ttft: float
    latency: float
    prompt: int
    answer: int
    error: str = ""


@dataclass(frozen=True)
class Run:
    """Requests that so many clients sent to one server: seconds from the first to the end of the last, and samples."""

    seconds: float
    samples: tuple[Sample, ...]

    def to_dict(self, tokens: int) -> dict[str, Any]:
        """Return JSON values; answers of other than `tokens` tokens count as failed."""
        return {"seconds": self.seconds, "samples": [asdict(checked(one, tokens)) for one in self.samples]}


def checked(sample: Sample, tokens: int) -> Sample:
    """Return `sample`, failed where its answer is shorter or longer than was asked for."""
    if sample.error or sample.answer == tokens:
        return sample
    return Sample(**{**asdict(sample), "error": f"an answer of {sample.answer} tokens, {tokens} were asked for"})


def good(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the samples of `run` that did not fail."""
    return [one for one in run["samples"] if not one["error"]]


def rate(run: dict[str, Any], within: float | None = None) -> float:
    """Return good answers a second; with `within`, those alone whose first token came in so many seconds."""
    return sum(within is None or one["ttft"] <= within for one in good(run)) / run["seconds"]


def figures(runs: Sequence[dict[str, Any]], within: float | None = None) -> dict[str, Any]:
    """Return the figures of all rounds of one server at one number of clients.

    Returns
    -------
    dict
        ``rate`` and ``goodput`` in requests a second: ``median``, ``low`` and ``high`` of the rounds. ``ttft`` in
        seconds: ``p50`` and ``p99`` of all requests, and each round's as ``p50_rounds`` and ``p99_rounds``.
        ``prompt`` is the mean number of prompt tokens; ``requests`` and ``failed`` are numbers.
    """
    samples = [one for run in runs for one in good(run)]
    total = sum(len(run["samples"]) for run in runs)
    rounds = [[one["ttft"] for one in good(run)] for run in runs]
    found: dict[str, Any] = {
        "requests": total,
        "failed": total - len(samples),
        "rate": spread([rate(run) for run in runs]),
        "goodput": None if within is None else spread([rate(run, within) for run in runs]),
        "prompt": mean(one["prompt"] for one in samples) if samples else None,
        "ttft": None,
    }
    if samples:
        percent = {f"p{p}": float(np.percentile([s["ttft"] for s in samples], p)) for p in (50, 99)}
        every = {f"p{p}_rounds": [float(np.percentile(one, p)) for one in rounds if one] for p in (50, 99)}
        found["ttft"] = {**percent, **every}
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and range."""
    return {"median": median(values), "low": min(values), "high": max(values)}
