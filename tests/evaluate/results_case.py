"""Folders of results with known answers, built in a moment, for tests of whatever reads such a folder.

`small(path)` has two tasks: "shapes" (12 questions about 6 pictures) and "clips" (video, 8 questions about 4), at the
budgets of 16 and 4 tokens; `SCORES` is all there is to know about it. `build` makes any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.evaluate.arms import FRAMES, FULL, Arm
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.records import Answer, Outcome, Question

Scores = Sequence[float | None] | str
"""A score a question, None where the answer is blank; or the reason why the arm was refused."""
Cells = Sequence[tuple[Arm, Scores]]

CONFIGURATION = {"harness": "batched", "model": "tiny", "dtype": "float32", "attention": "sdpa", "limit": None}
KINDS = ("colour", "count")


def bits(text: str) -> list[float | None]:
    """Return the scores that a string of 1, 0 and _ (blank answer) stands for."""
    return [None if sign == "_" else float(sign) for sign in text if sign != " "]


def question(number: int, size: int = 2) -> Question:
    """Return question `number`; `size` questions share a picture."""
    target = ("red", "three")[number % 2]
    return Question(f"q{number}", f"What is it? ({number})", target, KINDS[number % 2], f"picture-{number // size}")


def outcome(asked: Sequence[Question], scores: Sequence[float | None], tokens: float | None) -> Outcome:
    """Return answers with those scores: the right word (in capitals, which loyalty ignores), "wrong", or nothing."""
    answers = [
        Answer(q.id, "" if s is None else q.target.upper() if s >= 0.5 else "wrong", s or 0.0)
        for q, s in zip(asked, scores, strict=True)
    ]
    right = sum(answer.score for answer in answers) / max(len(answers), 1)
    return Outcome(tuple(answers), tokens, (), {"exact_match": right}, seconds=1.25)


def build(
    path: Path,
    tasks: Mapping[str, Cells],
    *,
    size: int = 2,
    backwards: bool = False,
    configuration: Mapping[str, Any] = CONFIGURATION,
) -> Folder:
    """Write a folder, cell by cell, in the order given or `backwards`, and return it opened to be read.

    Parameters
    ----------
    tasks
        Scores of each arm; all of a task of the same length.
    size
        Questions a picture.
    """
    with Folder(path, configuration) as folder:
        folder.begin({"versions": {}, "device": "cpu"})
        for task, cells in tasks.items():
            lengths = {len(scores) for _, scores in cells if not isinstance(scores, str)}
            asked = [question(i, size) for i in range(max(lengths, default=0))]
            folder.ask(task, asked)
            for arm, scores in reversed(cells) if backwards else cells:
                if isinstance(scores, str):
                    folder.refuse(task, arm, scores)
                    continue
                tokens = 64.0 if arm.keep is None else arm.keep * (64.0 if isinstance(arm.keep, float) else 1.0)
                folder.write(task, arm, outcome(asked, scores, tokens))
    return Folder(path)


def at(keep: int | float, scores: Mapping[str, str]) -> list[tuple[Arm, Scores]]:
    """Return the arms of one budget by name; "random" has three strings of scores, separated by slashes."""
    found: list[tuple[Arm, Scores]] = []
    for method, text in scores.items():
        for seed, part in enumerate(text.split("/")):
            found.append((Arm(method, keep, seed=seed if method == "random" else None), bits(part)))
    return found


# What each arm has right. Full: 10 of 12. At 16: random 0.5 of 12 in the mean; group A: 4 questions that full has right
# and downsample wrong (0, 1, 8, 9), of which evoprune has 3 and fastv 1.
SCORES: dict[str, Cells] = {
    "shapes": [
        (Arm(FULL), bits("11 11 11 11 11 00")),
        *at(16, {
            "random": "11 00 11 00 11 00 / 11 11 00 00 10 00 / 10 10 10 10 11 11",
            "grid": "11 10 10 11 10 00",
            "downsample": "00 11 11 11 00 00",
            "evoprune": "11 11 11 11 10 00",
            "fastv": "10 11 11 10 00 11",
        }),
        *at(4, {
            "random": "10 00 10 00 10 00 / 01 00 00 00 00 00 / 10 00 00 10 00 00",
            "grid": "10 00 00 11 00 00",
            "downsample": "00 00 11 00 00 00",
            "evoprune": "11 11 10 10 00 0_",
        }),
        (Arm("fastv", 4), "fastv keeps at least 8 tokens of this model, not 4"),
    ],
    "clips": [
        (Arm(FULL), bits("11 11 00 11")),
        *at(16, {
            "random": "11 00 00 00 / 00 11 00 00 / 00 00 00 11",
            "grid": "11 00 00 10",
            "downsample": "00 11 00 00",
            "evoprune": "11 11 00 10",
            "fastv": "11 10 00 00",
            FRAMES: "10 10 10 10",
        }),
        *at(4, {
            "random": "00 00 00 00 / 00 00 00 00 / 00 00 00 00",
            "grid": "10 00 00 00",
            "downsample": "00 00 00 10",
            "evoprune": "11 00 00 00",
            "fastv": "10 00 00 00",
            FRAMES: "11 00 00 00",
        }),
    ],
}  # fmt: skip


def small(path: Path, *, backwards: bool = False) -> Folder:
    """Return the folder of `SCORES`, opened to be read."""
    return build(path, SCORES, backwards=backwards)
