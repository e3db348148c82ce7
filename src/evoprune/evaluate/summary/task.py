"""The statistics of one task: every arm beside the unpruned model, random at its budget, and its competitors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ..arms import FULL
from ..records import Question
from ..statistics import RIGHT, Interval, Pooled
from ..statistics.paired_tests import FLOOR, binary, corrected, mcnemar, sign_flip
from ..statistics.ranks import places, told_apart
from .baselines import baseline
from .rows import Row, budgets


def task_summary(questions: Sequence[Question], found: Sequence[Row]) -> dict[str, Any]:
    """Return the entry of a task: its counts, and one entry an arm in the order of `found`.

    A comparison is null where its other side did not run (the unpruned model; random or down-sampled input at the
    budget and with the arm's settings, named in ``baselines``), and of the other side with itself. ``ahead_of`` and
    ``behind`` are the slugs of the arms at its budget that it is told apart from, every pair compared at once, and
    ``rank`` counts them. A p of ``p_floor`` may be smaller: no drawn flip went as far. Where scores are soft, an answer
    of at least `RIGHT` is right.
    """
    groups = [question.group or f"\0{question.id}" for question in questions]
    ran = [row for row in found if row.error is None]
    full = next((row for row in ran if row.arm.method == FULL), None)
    pooled = Pooled(_columns(ran, full), groups)
    p = _against(full, [row for row in ran if row is not full], groups)
    q = dict(zip(p, corrected(list(p.values())), strict=True))
    ranked = _ranked(pooled, ran)
    arms = []
    for row in found:
        entry: dict[str, Any] = {"arm": row.arm.to_dict(), "name": row.arm.name}
        entry |= {"seeds": row.seeds, "error": row.error}
        if row.error is None:
            slug = row.arm.slug
            entry |= {"tokens": row.tokens, "layers": list(row.layers), **_beside(pooled, row, full)}
            entry |= {"ahead_of_random": _ahead(pooled, row, ran), "group_a": _group_a(pooled, row, ran, full)}
            entry |= {"baselines": _baselines(row, ran)}
            entry |= {"p": _short(p.get(slug)), "q": _short(q.get(slug)), **ranked.get(slug, {})}
            entry |= {"kinds": _kinds(row, questions), "empty": row.empty, "metrics": dict(row.metrics)}
        arms.append({**NOTHING, **entry})
    return {"questions": len(questions), "groups": len(set(groups)), "p_floor": FLOOR, "arms": arms}


NOTHING: dict[str, Any] = {
    "tokens": None, "layers": [], "accuracy": None, "relative": None, "difference": None, "mcnemar": None, "p": None,
    "q": None, "baselines": {}, "ahead_of_random": None, "loyalty": None, "group_a": None, "kinds": {}, "empty": 0,
    "rank": None, "ahead_of": None, "behind": None, "metrics": {},
}  # fmt: skip
"""What an arm that did not run has."""


def hard(full: np.ndarray, downsampled: np.ndarray) -> np.ndarray:
    """Return group A of VTC-Bench, bool (n,): the full model is right, but not on input down-sampled to the budget."""
    return (full >= RIGHT) & (downsampled < RIGHT)


def _columns(ran: Sequence[Row], full: Row | None) -> dict[Hashable, np.ndarray]:
    """Return what intervals are needed of: one draw of resamples serves them all."""
    columns: dict[Hashable, np.ndarray] = {}
    for row in ran:
        columns[row.arm.slug] = row.scores
        if full is not None:
            columns["same", row.arm.slug] = row.agreement(full)
        down = baseline(row, ran, "downsample")
        if full is not None and down is not None:
            mask = hard(full.scores, down.scores).astype(np.float64)
            columns |= {("hard", down.arm.slug): mask, ("right", row.arm.slug): row.scores * mask}
    return columns


def _baselines(row: Row, ran: Sequence[Row]) -> dict[str, str]:
    """Return the slugs of the runs that an arm is compared with, none of those that are the arm itself."""
    found = {method: baseline(row, ran, method) for method in ("random", "downsample") if method != row.arm.method}
    return {method: one.arm.slug for method, one in found.items() if one is not None}


def _against(full: Row | None, rest: Sequence[Row], groups: Sequence[str]) -> dict[str, float]:
    if full is None or not rest:
        return {}
    found = sign_flip(np.stack([row.scores for row in rest]), full.scores, groups)
    return {row.arm.slug: float(p) for row, p in zip(rest, found, strict=True)}


def _beside(pooled: Pooled, row: Row, full: Row | None) -> dict[str, Any]:
    """Return the accuracy, and what compares it with the unpruned model."""
    slug = row.arm.slug
    entry: dict[str, Any] = {"accuracy": _list(pooled.share(slug))}
    if full is None or full is row:
        return entry
    entry["relative"] = _list(pooled.ratio(slug, full.arm.slug))
    entry["difference"] = _list(pooled.difference(slug, full.arm.slug))
    entry["loyalty"] = _list(pooled.share(("same", slug)))
    if row.seeds == 1 and binary(row.scores) and binary(full.scores):
        only_full, only_pruned, p = mcnemar(full.scores, row.scores)
        entry["mcnemar"] = {"only_full": only_full, "only_pruned": only_pruned, "p": _short(p)}
    return entry


def _ahead(pooled: Pooled, row: Row, ran: Sequence[Row]) -> list[float] | None:
    random = baseline(row, ran, "random")
    if random is None or row.arm.method == "random":
        return None
    return _list(pooled.difference(row.arm.slug, random.arm.slug))


def _group_a(pooled: Pooled, row: Row, ran: Sequence[Row], full: Row | None) -> dict[str, Any] | None:
    down = baseline(row, ran, "downsample")
    if full is None or down is None or row.arm.method == "downsample":
        return None
    whole = ("hard", down.arm.slug)
    return {"questions": int(pooled.total(whole)), "accuracy": _list(pooled.share(("right", row.arm.slug), whole))}


def _kinds(row: Row, questions: Sequence[Question]) -> dict[str, Any]:
    kinds = np.array([question.kind for question in questions])
    named = [kind for kind in dict.fromkeys(kinds.tolist()) if kind]
    return {kind: [float(row.scores[kinds == kind].mean()), int((kinds == kind).sum())] for kind in named}


def _ranked(pooled: Pooled, ran: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return each arm's rank within its budget and whom it is ahead of and behind, every pair compared at once."""
    found: dict[str, dict[str, Any]] = {}
    for members in budgets(ran).values():
        slugs = [row.arm.slug for row in members]
        signs = told_apart(pooled, slugs)
        for slug, rank, told in zip(slugs, places(signs), signs.tolist(), strict=True):
            others = list(zip(slugs, told, strict=True))
            found[slug] = {
                "rank": list(rank),
                "ahead_of": sorted(other for other, sign in others if sign > 0),
                "behind": sorted(other for other, sign in others if sign < 0),
            }
    return found


def _list(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.value, found.low, found.high]


def _short(p: float | None) -> float | None:
    """Return a p-value with four significant digits: rounding to decimals would make the small ones 0."""
    return None if p is None else float(f"{p:.4g}")
