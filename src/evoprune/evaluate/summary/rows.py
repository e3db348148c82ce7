"""A task's cells as rows: one an arm, in which the seeds of random are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arms import FULL, Arm
from ..folder import Folder, FolderError
from ..records import Answer, Question
from ..statistics.resampling import checked


@dataclass(frozen=True)
class Row:
    """What one arm did on a task; scores are means over its seeds.

    Attributes
    ----------
    arm
        Without a seed where several are joined.
    seeds
        How many runs it is the mean of.
    error
        Why the model cannot run it; None where it ran.
    scores
        float64 (n,) in the order of the questions.
    texts
        The answers of each seed.
    tokens, layers, metrics
        As in `records.Outcome`, means over seeds.
    empty
        Blank answers of all seeds.
    """

    arm: Arm
    seeds: int = 1
    error: str | None = None
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    texts: tuple[tuple[str, ...], ...] = ()
    tokens: float | None = None
    layers: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    empty: int = 0

    @property
    def budget(self) -> str:
        """Arms of one budget are compared with each other; 1 token and the share 1.0 are two."""
        return repr(self.arm.keep)

    def agreement(self, other: Row) -> np.ndarray:
        """Return the share (n,) of seeds whose answer is that of `other`, case and blanks aside."""
        wanted = [normalised(text) for text in other.texts[0]]
        same = [[normalised(text) == target for text, target in zip(said, wanted, strict=True)] for said in self.texts]
        return np.asarray(same, dtype=np.float64).mean(axis=0)


def normalised(text: str) -> str:
    """Return an answer as loyalty compares it: case folded, runs of blanks as one, none at the ends."""
    return " ".join(text.split()).casefold()


def rows(folder: Folder, task: str, questions: Sequence[Question]) -> list[Row]:
    """Return a task's rows: the unpruned model, then budget by budget, large ones first.

    Raises
    ------
    FolderError
        Answers that do not fit the questions, or scores that are none.
    """
    cells: dict[str, list[Row]] = {}
    for arm, facts in folder.cells(task):
        cells.setdefault(replace(arm, seed=None).slug, []).append(_row(folder, task, arm, facts, questions))
    found = [_joined(members) for members in cells.values()]
    return sorted(found, key=lambda row: _place(row.arm))


def budgets(found: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each budget, without the unpruned model."""
    parts: dict[str, list[Row]] = {}
    for row in found:
        if row.arm.method != FULL:
            parts.setdefault(row.budget, []).append(row)
    return parts


def _place(arm: Arm) -> tuple[Any, ...]:
    keep = arm.keep
    return (arm.method != FULL, isinstance(keep, int), -keep if keep is not None else 0.0, arm.slug)


def _row(folder: Folder, task: str, arm: Arm, facts: Mapping[str, Any], questions: Sequence[Question]) -> Row:
    if facts["error"] is not None:
        return Row(arm, error=facts["error"])
    answers = _ordered(folder, task, arm, questions)
    try:
        scores = checked([answer.score for answer in answers])
    except (ValueError, TypeError) as error:
        raise FolderError(f"the answers of {arm.slug} to {task} in {folder.path} cannot be used: {error}") from error
    return Row(
        arm,
        scores=scores,
        texts=(tuple(answer.text for answer in answers),),
        tokens=facts["tokens"],
        layers=tuple(facts["layers"]),
        metrics=facts["metrics"],
        empty=facts["empty"],
    )


def _ordered(folder: Folder, task: str, arm: Arm, questions: Sequence[Question]) -> list[Answer]:
    found = folder.answers(task, arm)
    answers = {answer.id: answer for answer in found}
    if len(found) != len(questions) or set(answers) != {question.id for question in questions}:
        raise FolderError(
            f"{folder.path} holds {len(found)} answers of {arm.slug} to {len(questions)} questions of {task}, or to "
            "others: delete its file under cells/ and run the same command again"
        )
    return [answers[question.id] for question in questions]


def _joined(members: Sequence[Row]) -> Row:
    """Return the mean of the seeds that ran; of none that ran, the first refusal."""
    ran = [row for row in members if row.error is None]
    first = ran[0] if ran else members[0]
    if len(members) == 1 and first.arm.seed is None:
        return first
    known = [row.tokens for row in ran if row.tokens is not None]
    return Row(
        replace(first.arm, seed=None),
        seeds=len(ran),
        error=first.error,
        scores=np.mean([row.scores for row in ran], axis=0) if ran else first.scores,
        texts=tuple(text for row in ran for text in row.texts),
        tokens=float(np.mean(known)) if known else None,
        layers=tuple(np.mean([row.layers for row in ran], axis=0).tolist()) if ran else (),
        metrics={
            name: float(np.mean([row.metrics[name] for row in ran]))
            for name in first.metrics
            if all(name in row.metrics for row in ran)
        },
        empty=sum(row.empty for row in ran),
    )
