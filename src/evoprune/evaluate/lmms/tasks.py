"""Tasks of lmms-eval as questions, and samples that it logged as answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .. import catalogue
from ..catalogue import scores
from ..embedded import tasks as embedded_tasks
from ..records import Answer, Question


def manager(task: str, limit: int | None, name: str) -> Any:
    """Return the TaskManager that knows `task`; `name` is that of the model class, which some prompts depend on."""
    include = tuple(str(path) for path in catalogue.include_paths([task], limit))
    # The index of lmms-eval's own tasks takes seconds, and embedded tasks do without.
    return _manager(include, task not in embedded_tasks.TASKS, name)


@lru_cache(maxsize=8)
def _manager(include: tuple[str, ...], defaults: bool, name: str) -> Any:
    from lmms_eval.tasks import TaskManager

    return TaskManager("ERROR", include_path=list(include), include_defaults=defaults, model_name=name)


class Settled:
    """A TaskManager whose tasks have these settings of generation over their own."""

    def __init__(self, manager: Any, settings: Mapping[str, Any]):
        self._manager, self._settings = manager, dict(settings)

    def load_task_or_group(self, *args: Any, **kwargs: Any) -> Any:
        """Load tasks as the TaskManager does."""
        found = self._manager.load_task_or_group(*args, **kwargs)
        for one in found.values():
            # A copy: the dictionary may be that of the file, which later loads start from.
            own = one.config.generation_kwargs or {}
            one.set_config("generation_kwargs", copy.deepcopy({**own, **self._settings}))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


def load(task: str, limit: int | None, name: str) -> Any:
    """Return the task object; ValueError where the name stands for several."""
    from lmms_eval.tasks import get_task_dict

    found = get_task_dict([task], manager(task, limit, name), "chat")
    if list(found) != [task] or isinstance(found[task], (dict, tuple)):
        raise ValueError(f"{task} is a group of tasks: name its tasks, {', '.join(map(str, found))}")
    return found[task]


def questions(task: str, found: Any, limit: int | None) -> tuple[Question, ...]:
    """Return a task's questions in the order of its documents, under their numbers.

    The embedded tasks have their own ids, the same in every harness.
    """
    if task in embedded_tasks.TASKS:
        return embedded_tasks.questions(task, limit)
    rows = []
    for number, doc in enumerate(found.eval_docs_no_media):
        if number == limit:
            break
        texts = _text(found.doc_to_text(doc)), _text(found.doc_to_target(doc))
        rows.append(Question(str(number), *texts, scores.kind(task, doc), scores.group(task, doc)))
    return tuple(rows)


def answers(task: str, asked: Sequence[Question], samples: Sequence[Mapping[str, Any]]) -> tuple[Answer, ...]:
    """Return an answer a question.

    Parameters
    ----------
    samples
        What lmms-eval logged, of all processes; where a task filters answers in several ways, its first counts.

    Raises
    ------
    RuntimeError
        Other documents than those asked about.
    """
    by_number: dict[int, Mapping[str, Any]] = {}
    for sample in samples:
        by_number.setdefault(int(sample["doc_id"]), sample)
    if sorted(by_number) != list(range(len(asked))):
        raise RuntimeError(f"lmms-eval scored {len(by_number)} documents of {task}, but {len(asked)} were asked about")
    return tuple(
        Answer(
            question.id, _text(by_number[number]["filtered_resps"]).strip(), scores.per_sample(task, by_number[number])
        )
        for number, question in enumerate(asked)
    )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_text, value))
    return "" if value is None else str(value)
