"""Whether the data of tasks is there: asked before any model is loaded, and answered in one sentence.

``python -m evoprune.evaluate.catalogue.data mme`` fetches what this benchmark needs, for a machine without network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..embedded.tasks import TASKS as EMBEDDED
from . import index
from .hub import cause, offline, once, reach
from .judges import check_judges
from .table import benchmark

MODULE = "evoprune.evaluate.catalogue.data"  # __name__ is __main__ where it runs as a program


class DataMissing(ValueError):
    """The data of a task is not there, and cannot be fetched."""


def include_paths(tasks: Sequence[str] = (), limit: int | None = None) -> list[Path]:
    """Return the folders to give to lmms-eval beside its own tasks; the data of embedded `tasks` is written.

    Parameters
    ----------
    tasks
        Tasks that will be run.
    limit
        Only the first so many questions of embedded tasks.
    """
    from ..embedded.data import prepare

    return [index.shipped(), *(prepare(task, limit) for task in tasks if task in EMBEDDED)]


def check_data(tasks: Sequence[str], limit: int | None = None, *, chat: bool = True) -> dict[str, Any]:
    """Build the tasks' data, fetching it where there is a network, and look for their videos.

    Parameters
    ----------
    tasks
        Names of lmms-eval tasks, as `catalogue.resolve` returns them.
    limit
        How many questions of each will be asked; all by default.
    chat
        Build tasks for models that take messages, as most do, or for those that take a text and pictures.

    Returns
    -------
    dict
        lmms-eval's task objects by name.

    Raises
    ------
    DataMissing
        A data set or a video is not there: which one, and how to get it.
    ValueError
        A judge that cannot be asked, a limit between questions that are scored together, or no lmms-eval.
    """
    check_judges(tasks)
    for task in tasks:
        found = benchmark(task)
        if found is not None and limit is not None and limit % found.together:
            raise ValueError(
                f"limit={limit} cuts through the {found.together} questions of {task} that are scored together: give a "
                f"multiple of {found.together}"
            )
    index.installed()
    built = {}
    for task in tasks:
        with _named(task):
            built[task] = _build(task, limit, chat)
            _videos(task, built[task], limit)
    return built


def _build(task: str, limit: int | None, chat: bool) -> Any:
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.tasks import TaskManager, get_task_dict

    # Only the folder of the task is read: reading all of lmms-eval's takes seconds.
    folders = include_paths([task], limit)
    if task not in EMBEDDED:
        folders = [index.paths()[task].parent]
    manager = TaskManager("ERROR", include_path=[str(folder) for folder in folders], include_defaults=False)
    dataset = manager._get_config(task).get("dataset_path")
    trouble = reach(dataset)
    with once(ConfigurableTask.download), offline(bool(trouble)):
        try:
            return get_task_dict([task], manager, task_type="chat" if chat else "simple")[task]
        except (Exception, SystemExit) as error:
            raise _missing(task, dataset, cause(error), trouble) from error


def _missing(task: str, dataset: Any, error: BaseException, trouble: str) -> ValueError:
    if isinstance(error, ImportError):
        return ValueError(f"{task} needs the package {error.name}, and it is not installed: pip install {error.name}")
    if isinstance(error, SystemExit) or not trouble:
        return DataMissing(
            f"the data of {task} ({dataset}) cannot be used ({type(error).__name__}: {error}): {_way(task)}"
        )
    return DataMissing(f"the data set {dataset} of {task} is not in the cache, and {trouble}: {_way(task)}")


def _way(task: str) -> str:
    return (
        f"where there is a network, `hf auth login` (lmms-eval asks for a login) and `python -m {MODULE} {task}` fetch "
        "it into HF_HOME, a folder that may be carried to another machine"
    )


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Turn what tasks do about missing files, which is to leave the program, into a sentence."""
    try:
        yield
    except SystemExit as error:
        raise DataMissing(f"a file of {task} is missing ({error.code}): {_way(task)}") from error


def _videos(task: str, built: Any, limit: int | None) -> None:
    """Refuse a task whose video files are not there."""
    docs = built.eval_docs
    shown = _shown(task, built, docs[0])
    if not shown or not all(isinstance(one, str) for one in shown):
        return
    light = built.eval_docs_no_media
    paths = [
        path for number in range(min(len(docs), limit or len(docs))) for path in _shown(task, built, light[number])
    ]
    gone = [path for path in dict.fromkeys(paths) if not os.path.exists(path)]
    if gone:
        found = benchmark(task)
        folder = f" of $HF_HOME/{found.videos}" if found is not None and found.videos else ""
        raise DataMissing(
            f"{len(gone)} of {len(set(paths))} videos{folder} of {task} are missing, the first is {gone[0]}: "
            f"{_way(task)}"
        )


def _shown(task: str, built: Any, doc: Any) -> list[Any]:
    try:
        return list(built.doc_to_visual(doc) or [])
    except (OSError, RuntimeError) as error:  # a task that decodes its videos itself
        raise DataMissing(f"a file of {task} cannot be read ({error}): {_way(task)}") from error


def main(names: Sequence[str]) -> None:
    """Fetch the data of the named benchmarks."""
    from . import resolve

    for task in resolve(names):
        built = check_data([task])[task]
        print(f"{task}: {len(built.eval_docs)} questions")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as wrong:
        sys.exit(f"error: {wrong}")
