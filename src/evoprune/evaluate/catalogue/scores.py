"""How right each answer is, 0 to 1, from what lmms-eval's own scoring left of it.

A sample is one entry of ``results["samples"][task]``: the task's metrics stand in it beside ``doc_id``, ``doc``,
``target``, ``arguments``, ``resps`` and ``filtered_resps``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from .questions import group, kind

__all__ = ["group", "kind", "per_sample"]

# What an entry holds beside metrics; a submission is a text for a server.
RECORD = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash", "input_media"}
RECORD |= {"input", "submission", "reasoning_tags"}


def per_sample(task: str, sample: Mapping[str, Any]) -> float:
    """Return how right one answer is.

    Parameters
    ----------
    task
        Name of the lmms-eval task, for the error.
    sample
        One entry of lmms-eval's logged samples.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        Nothing in the sample is a score, several scores disagree, or one is no number from 0 to 1.
    """
    for key, rule in _RULES.items():
        value = sample.get(key)
        if isinstance(value, Mapping) and (found := rule(value, sample)) is not None:
            return _checked(task, key, found)
    return _generic(task, sample)


def _generic(task: str, sample: Mapping[str, Any]) -> float:
    """Take the one score that all metrics of the sample agree on: a number, or the ``score`` in a dictionary."""
    scores = {}
    for key, value in sample.items():
        number = value.get("score") if isinstance(value, Mapping) else value
        # bool and NumPy's numbers count; texts and lists do not.
        if key not in RECORD and hasattr(number, "__float__"):
            scores[key] = _checked(task, key, number)
    if len(set(scores.values())) == 1:
        return next(iter(scores.values()))
    told = f"several scores that disagree ({', '.join(scores)})" if scores else "no score of each answer"
    raise ValueError(f"{task} gives {told}, which cannot be compared answer by answer: leave this task out")


def _checked(task: str, key: str, value: Any) -> float:
    number = float(value)
    if math.isnan(number) or not 0 <= number <= 1:
        raise ValueError(
            f"{task} scored an answer {key}={value!r}, which is no number from 0 to 1: leave this task out"
        )
    return number


# Rules for metrics that keep the parts of a score and not the score; None where the dictionary is another task's.


def _mmbench(value: Mapping[str, Any], _: Mapping[str, Any]) -> float | None:
    """One row by the rules of MMBench's own evaluator; its score asks for all rotations of a question at once."""
    if not {"prediction", "index", "answer", "A", "B"} <= value.keys():
        return None
    import pandas

    row = {**value, "prediction": str(value["prediction"])}
    answers = {value["index"]: value["answer"]}
    return _evaluator().eval_sub_data(pandas.DataFrame([row]), answers, static_only=True)


@lru_cache(maxsize=1)
def _evaluator() -> Any:
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return MMBench_Evaluator()


def _longvideobench(value: Mapping[str, Any], sample: Mapping[str, Any]) -> float:
    """The letter found; lmms-eval draws one at random where there is none, which would make arms differ by chance."""
    from lmms_eval.tasks.longvideobench.utils import parse_multi_choice_response

    said = (sample.get("filtered_resps") or [""])[0]
    text = said[0] if isinstance(said, (list, tuple)) else said
    before = random.getstate()
    letter = parse_multi_choice_response(str(text), [""], {})  # what it would draw is "" then
    random.setstate(before)
    return float(bool(letter) and letter == value["answer"])


def _refcoco(value: Mapping[str, Any], _: Mapping[str, Any]) -> float:
    from lmms_eval.tasks.refcoco.utils_rec import compute_accuracy

    try:
        return float(compute_accuracy(value["bbox"], value["pred"], 0.5))
    except ZeroDivisionError:  # two boxes without area
        return 0.0


def _seedbench(value: Mapping[str, Any], _: Mapping[str, Any]) -> float:
    return float(str(value["pred"]).lower().strip() == str(value["answer"]).lower().strip())


_RULES: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], float | None]] = {
    "gpt_eval_score": _mmbench,
    "lvb_acc": _longvideobench,
    "refcoco_ACC@0.5": _refcoco,
    "seed_all": _seedbench,
}
