"""A runner without a model: its answers follow from the arm and the question alone."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evoprune.evaluate.arms import Arm, arms
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.records import Answer, Outcome, Question
from evoprune.evaluate.sweep import Refused, sweep

TASKS = ("one", "two")
CONFIGURATION = {"model": "scripted", "limit": None}


class Scripted:
    """`Runner`; refuses the method that is named `refuses`, and crashes at the one named `crashes`."""

    harness = "scripted"

    def __init__(self, questions: int = 6, refuses: str = "", crashes: str = "", main: bool = True) -> None:
        self.count, self.refuses, self.crashes, self.main = questions, refuses, crashes, main
        self.ran: list[str] = []

    def configuration(self) -> dict[str, Any]:
        return dict(CONFIGURATION)

    def video(self, task: str) -> bool:
        return False

    def questions(self, task: str) -> Sequence[Question]:
        return [
            Question(str(n), f"What is {n}?", str(n), "odd" if n % 2 else "even", str(n // 2))
            for n in range(self.count)
        ]

    def run(self, task: str, arm: Arm, advance: Callable[[int], None]) -> Outcome:
        self.ran.append(f"{task} {arm.slug}")
        if arm.method == self.refuses:
            raise Refused(f"{arm.method} cannot run here")
        answers = []
        for number, question in enumerate(self.questions(task)):
            if arm.method == self.crashes and number == 3:
                raise RuntimeError("out of memory")
            right = arm.keep is None or zlib.crc32(f"{task} {arm.slug} {question.id}".encode()) % 3 > 0
            answers.append(Answer(question.id, question.target if right else "", float(right)))
            advance(number + 1)
        return Outcome(tuple(answers), tokens=196.0 * (arm.keep or 1), metrics={"exact_match": 0.5}, seconds=0.1)

    def close(self) -> None:
        pass


def cells() -> list[tuple[str, Arm]]:
    """Two tasks, one method and the sanity baselines at one budget."""
    return [(task, arm) for task in TASKS for arm in arms(["evoprune"], [0.25])]


def swept(path: Path, runner: Scripted | None = None, **settings: Any) -> Scripted:
    """Sweep into a folder, as the command line does."""
    runner = runner or Scripted()
    with Folder(path, runner.configuration(), writes=runner.main) as folder:
        folder.begin({"command": "test"})
        sweep(runner, cells(), folder, **settings)
    return runner
