"""The embedded benchmarks as tasks: the same questions, under the same ids, for every harness."""

from __future__ import annotations

from functools import lru_cache

from ...errors import unknown
from ...tiny import benchmark as scenes
from ...tiny.benchmark import Example
from ...tiny.video import benchmark as clips
from ..records import Question

TASKS = {"tiny_scenes": "image", "tiny_clips": "video"}  # and what they show
MODELS = {"tiny_scenes": "tiny", "tiny_clips": "tiny-video"}  # the embedded model that was made for a task
SPLIT = "test"


def examples(task: str, limit: int | None = None) -> tuple[Example, ...]:
    """Return the questions of a task's test split, or its first `limit`; ValueError for an unknown task."""
    if task not in TASKS:
        raise ValueError(unknown("embedded task", task, TASKS))
    return (scenes if TASKS[task] == "image" else clips).examples(SPLIT)[:limit]


@lru_cache(maxsize=8)
def questions(task: str, limit: int | None = None) -> tuple[Question, ...]:
    """Return the questions as records; questions about one scene or clip are a group."""
    return tuple(
        Question(f"{e.scene}-{e.kind}", e.question, e.answer, e.kind, str(e.scene)) for e in examples(task, limit)
    )
