"""A sweep: every arm on every task, each cell once, whatever was interrupted in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .arms import Arm
from .folder import Folder, FolderError
from .records import Outcome, Question


class Refused(ValueError):
    """The model cannot run an arm at all, for a reason that stays: the cell is done, and says why."""


class Runner(Protocol):
    """Runs cells of one model through one harness; `embedded.runner.Embedded` and `lmms.runner.LmmsEval` are the two.

    Attributes
    ----------
    harness
        Its name in results.
    main
        Whether this process is to write: one of several that run a cell together.
    """

    harness: str

    @property
    def main(self) -> bool:
        """Whether this process is to write."""

    def configuration(self) -> dict[str, Any]:
        """Return the JSON values that decide the answers: model and revision, dtype, attention, prompts, limit."""

    def video(self, task: str) -> bool:
        """Whether the task shows videos."""

    def questions(self, task: str) -> Sequence[Question]:
        """Return the questions of a task, without running the model."""

    def run(self, task: str, arm: Arm, advance: Callable[[int], None]) -> Outcome:
        """Run one cell; `advance` is told the number of questions answered so far.

        Raises
        ------
        Refused
            The model cannot run the arm.
        """

    def close(self) -> None:
        """Let go of the model."""


class Watcher:
    """Told how a sweep goes on; this one is silent."""

    def begin(self, cells: int, done: int) -> None:
        """A sweep of `cells` cells, of which `done` need not be run."""

    def cell(self, task: str, arm: Arm, questions: int) -> None:
        """A cell begins."""

    def advance(self, answered: int) -> None:
        """So many questions of the cell are answered."""

    def end(self, task: str, arm: Arm, error: str | None) -> None:
        """A cell is done, or was refused for the reason `error`."""


def sweep(
    runner: Runner,
    cells: Sequence[tuple[str, Arm]],
    folder: Folder,
    watcher: Watcher | None = None,
    keep_going: bool = False,
) -> list[str]:
    """Run the cells that the folder has not yet.

    Parameters
    ----------
    cells
        Task and arm of each.
    keep_going
        Go on with the next cell where one crashes.

    Returns
    -------
    list of str
        A sentence for each cell that crashed; none unless `keep_going`.
    """
    told, crashed = watcher or Watcher(), []
    todo = [(task, arm) for task, arm in cells if not folder.done(task, arm)]
    told.begin(len(cells), len(cells) - len(todo))
    for task in dict.fromkeys(task for task, _ in cells):
        folder.ask(task, runner.questions(task))
    for task, arm in todo:
        told.cell(task, arm, len(runner.questions(task)))
        error: str | None = None
        try:
            folder.write(task, arm, runner.run(task, arm, told.advance))
        except Refused as refusal:
            error = str(refusal)
            folder.refuse(task, arm, error)
        except FolderError:
            raise
        except (Exception, SystemExit) as failure:  # a harness may leave the program where a file is missing
            if not keep_going:
                raise
            error = f"{task} {arm.slug} crashed: {type(failure).__name__}: {failure}"
            crashed.append(error)
        told.end(task, arm, error)
    return crashed
