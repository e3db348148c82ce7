"""MMBench by rules alone, for the languages in which lmms-eval asks a judge model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def static(results: Sequence[Mapping[str, Any]]) -> float:
    """Return MMBench's score, 0 to 100: a question counts if it is right in all rotations of its options."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return MMBench_Evaluator().eval_result([dict(result) for result in results], eval_method="static")[0] * 100
