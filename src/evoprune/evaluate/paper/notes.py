"""What has to be read below a table: whose model, which clock, and what the numbers do not say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..catalogue.table import BENCHMARKS
from ..embedded.tasks import TASKS
from ..latency import times
from . import numbers as printed
from .tables import Table


def origins(table: Table, model: str | None, task: str | None, latency: Mapping[str, Any] | None) -> list[str]:
    """Return whose numbers they are: model, clock, base."""
    found = []
    if task is not None:
        found.append(
            f"Ours are of the embedded model {model} on {task}, the paper's of {table.model.rpartition('/')[2]} on its "
            "benchmarks: they stand beside each other to show the form, and no difference is taken. Budgets are the "
            f"same shares of the tokens (the paper's {'/'.join(map(str, table.budgets))} of "
            f"{printed.SIZES[table.name]}), and so are the layers of first and last."
        )
    elif model is not None and model != table.model:
        found.append(f"Measured on {model}; the paper's model is {table.model}: differences are of the method only if "
                     "the two are the same.")  # fmt: skip
    found.append(
        "`mean` and `mean of ratios` of the paper's lines are computed from its printed entries. Latencies are shares "
        "of the unpruned model's without the layers that nobody reads."
    )
    return [*found, *_clock(table, task, latency)]


def timed(table: Table, task: str | None, latency: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the times of a folder if they are of what the table shows, pictures or videos, else None."""
    return latency if times.modality(latency) == _shows(table, task) else None


def _shows(table: Table, task: str | None) -> str:
    if task is not None:
        return TASKS[task]
    return "image" if table.frames is None else "video"


def _clock(table: Table, task: str | None, latency: Mapping[str, Any] | None) -> Iterator[str]:
    if latency is None or not latency["runs"]:
        yield "Times: not measured (--latency)."
        return
    if timed(table, task, latency) is None:
        yield f"Times: not measured; the folder's are of {times.inputs(latency)}, which this table does not show."
        return
    told = latency["configuration"]
    clock = "processor time" if latency["runs"][0]["clock"] == "cpu_seconds" else "wall clock"
    yield (
        f"Times: {times.inputs(latency)}, {told['machine']}, {clock}, medians of {told['repeats']} interleaved runs; "
        "the paper's are of an H20."
    )
    share = times.native(latency, "pre-LLM")
    if share is not None:
        yield f"The model as shipped takes {share:.2f} of that before the LLM."


def columns(table: Table) -> list[str]:
    """Return what each benchmark of a table is here: the task, its split, and who judges the answers."""
    found = {}
    for column in table.columns:
        one = next(one for one in BENCHMARKS if column.task in (one.name, *one.tasks))
        by = "answers scored by a judge model" if one.judge else one.sample
        found[column.task] = f"{one.title} is {column.task}, split {one.split}, {by}"
    return [
        f"Ours: {'; '.join(found.values())}. A difference is of the benchmark as well wherever the paper took another "
        "split or judge."
    ]


def cautions(table: Table, task: str | None, summary: Mapping[str, Any]) -> list[str]:
    """Return what keeps the numbers from saying more than they do."""
    found = []
    limit = summary.get("configuration", {}).get("limit")
    if limit is not None:
        found.append(f"Only the first {limit} questions of each task were asked.")
    if not summary.get("sanity", True):
        gaps = dict.fromkeys(f"{gap['method']} {gap['keep']}" for gap in summary.get("missing", []))
        found.append(f"No sanity baselines: {', '.join(gaps)}. What a method adds to them is not known.")
    if task is None:
        found.append("~ marks differences where our 95 % interval holds the paper's number; the paper gives none.")
    return found
