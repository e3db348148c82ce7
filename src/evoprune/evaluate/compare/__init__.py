"""Two sample files of lmms-eval about the same questions, compared in pairs.

lmms-eval's own ``--baseline`` scores the other file anew by exact match, so that a run differs from itself. Here both
sides have the task's own scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..statistics import RIGHT, Interval, Pooled
from ..statistics.paired_tests import binary, mcnemar, sign_flip
from ..statistics.resampling import checked
from ..summary.rows import normalised
from ..tables.rows import NONE, Table, interval
from . import sample_files as samples

if TYPE_CHECKING:
    from ..tables import Fitted

FORMAT = "evoprune.comparison/1"
NAMED = 12  # flipped questions that the table names


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Return how the run in `second` differs from that in `first`, as JSON values.

    Questions are paired by number, prompt and target. They are grouped as `evoprune eval` groups them, by picture or
    video, where the task's metric names it (Video-MME, MME, MMBench, the embedded tasks); else each stands for itself.

    Parameters
    ----------
    first, second
        ``<stamp>_samples_<task>.jsonl`` of ``lmms-eval --log_samples``.

    Returns
    -------
    dict
        ``grouped``, whether the files tell which questions belong together; ``accuracy`` of both, their ``difference``
        and ``relative`` accuracy (second to first) with 95 % paired intervals; ``mcnemar``, null where scores are soft;
        ``p`` by flipped signs of groups; ``same_answers``, the share of equal ones; ``lost`` and ``won``: numbers of
        the questions that changed from right to wrong, and back (a soft score of at least `RIGHT` is right).

    Raises
    ------
    ValueError
        A file that holds no samples, or two of different tasks or questions.
    """
    task, before = samples.read(Path(first))
    other, after = samples.read(Path(second))
    if task != other:
        raise ValueError(f"{first} is of the task {task} and {second} of {other}: give two files of one task")
    if before.keys() != after.keys():
        alone = len(before.keys() - after.keys()), len(after.keys() - before.keys())
        raise ValueError(
            f"{first} and {second} hold different questions ({alone[0]} are in the first alone, {alone[1]} in the "
            "second alone): give two runs with the same prompts, targets and limit"
        )
    keys = sorted(before, key=lambda key: (len(key[0]), key))
    lines, others = [before[key] for key in keys], [after[key] for key in keys]
    found = {"format": FORMAT, "task": task, "files": [str(first), str(second)], "questions": len(keys)}
    return found | _compared(task, lines, others)


def _compared(task: str, lines: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    a = checked([samples.score(task, line) for line in lines])
    b = checked([samples.score(task, line) for line in others])
    pairs = list(zip(lines, others, strict=True))
    same = [normalised(samples.answer(one)) == normalised(samples.answer(two)) for one, two in pairs]
    known = samples.groups(task, lines)
    groups = known or [str(number) for number in range(len(lines))]
    pooled = Pooled({"a": a, "b": b, "same": np.array(same, dtype=np.float64)}, groups)
    told = None
    if binary(a) and binary(b):
        told = dict(zip(("only_first", "only_second", "p"), mcnemar(a, b), strict=True))
    return {
        "groups": pooled.groups,
        "grouped": known is not None,
        "accuracy": [_list(pooled.share("a")), _list(pooled.share("b"))],
        "difference": _list(pooled.difference("b", "a", agree="same")),
        "relative": _list(pooled.ratio("b", "a", agree="same")),
        "mcnemar": told,
        "p": float(sign_flip([b], a, groups)[0]),
        "same_answers": _list(pooled.share("same")),
        "lost": [line["doc_id"] for line, x, y in zip(lines, a, b, strict=True) if x >= RIGHT > y],
        "won": [line["doc_id"] for line, x, y in zip(lines, a, b, strict=True) if y >= RIGHT > x],
    }


def table(found: dict[str, Any]) -> Table:
    """Return what `compare` found as rows of strings."""
    told = found["mcnemar"]
    rows = [
        ("accuracy of the first", interval(found["accuracy"][0])),
        ("accuracy of the second", interval(found["accuracy"][1])),
        ("second minus first", interval(found["difference"])),
        ("second / first", interval(found["relative"])),
        ("equal answers", interval(found["same_answers"])),
        ("right to wrong", _named(found["lost"])),
        ("wrong to right", _named(found["won"])),
        ("p, signs of groups flipped", f"{found['p']:.4g}"),
        ("p, McNemar, exact", NONE if told is None else f"{told['p']:.4g}"),
    ]
    title = f"{found['task']}: {found['questions']} questions in {found['groups']} groups"
    notes = [f"first: {found['files'][0]}", f"second: {found['files'][1]}"]
    if not found["grouped"]:
        notes.append(
            "the files do not tell which questions share a picture or video: all are taken as independent, and where "
            "they are not, the intervals are too narrow and p too small"
        )
    if told is None:
        notes.append("scores are soft: McNemar's test does not apply, and at least 0.5 counts as right")
    return Table(title, ("", "value [95 % interval]"), tuple(rows), tuple(notes))


def rich_table(found: dict[str, Any]) -> Fitted:
    """Return what `rich` prints of a comparison."""
    from ..tables import rich_table

    return rich_table(table(found))


def _named(numbers: Sequence[Any]) -> str:
    shown = ", ".join(str(number) for number in numbers[:NAMED])
    return f"{len(numbers)}" + (f" (questions {shown}{', ...' if len(numbers) > NAMED else ''})" if numbers else "")


def _list(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.value, found.low, found.high]
