"""Tables of a summary as rows of strings, which the terminal, documents and papers print alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arms import FULL, Arm
from ..latency import times
from ..statistics.ranks import shown
from .names import beside_random, rows_names, slug
from .notes import notes, overall_notes

NONE = "–"
MARKS = {1: " +", 0: "", -1: " -"}  # beside random
LEGEND = (
    "In brackets: 95 % intervals, paired bootstrap over groups; a group is all questions about one picture or clip. "
    "full: the unpruned model. relative: accuracy / unpruned accuracy. q: p of the difference to the unpruned model "
    "(signs of groups flipped), corrected for all arms of the task (Benjamini-Hochberg); ≤: no drawn flip went as far. "
    "rank: the places that an arm may have when every pair at its budget is compared at once at 95 %. ahead of random: "
    "accuracy minus that of random at the same budget and settings; + or - where the same comparison of every pair "
    "tells the two apart. loyalty: share of answers equal to the unpruned model's. group A: accuracy on the questions "
    "that the unpruned model has right and down-sampled input wrong; they are selected by where down-sampling fails, "
    "so that arms which blur likewise look worse there."
)


@dataclass(frozen=True)
class Table:
    """A title, headings, rows of as many cells, and lines below."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(summary: Mapping[str, Any], latency: Mapping[str, Any] | None = None) -> list[Table]:
    """Return the tables of all tasks, and the one over all of them where there are several.

    Parameters
    ----------
    summary
        What `summary.summarise` returns.
    latency
        What latency.json holds; adds the time to the first token beside the unpruned model's.
    """
    found = [table for task in summary["tasks"] for table in task_tables(summary, task, latency)]
    return [*found, overall_table(summary)] if len(summary["tasks"]) > 1 else found


def task_tables(summary: Mapping[str, Any], task: str, latency: Mapping[str, Any] | None = None) -> list[Table]:
    """Return a table a budget, each with the unpruned model in front; of that alone where there is no budget.

    Raises
    ------
    ValueError
        The summary has no such task.
    """
    if task not in summary["tasks"]:
        raise ValueError(f"the summary has no task {task!r}: choose one of {', '.join(summary['tasks'])}")
    entry = summary["tasks"][task]
    full = [arm for arm in entry["arms"] if arm["arm"]["method"] == FULL]
    parts: dict[str, list[Any]] = {}
    for arm in entry["arms"]:
        if arm["arm"]["method"] != FULL:
            parts.setdefault(repr(arm["arm"]["keep"]), []).append(arm)
    asked = f"{entry['questions']} questions in {entry['groups']} groups"
    found = []
    for arms in parts.values() or [[]]:
        keep = arms[0]["arm"]["keep"] if arms else None
        title = f"{task}, {budget(keep)}: {asked}" if arms else f"{task}: {asked}"
        missing = [gap for gap in summary["missing"] if gap["task"] == task and repr(gap["keep"]) == repr(keep)]
        shown = [*full, *arms]
        columns = _columns(shown, latency, entry["p_floor"], task)
        rows = tuple(tuple(cell(arm) for cell in columns.values()) for arm in shown)
        below = [*notes(entry["questions"], shown, missing), *([] if latency is None else [times.note(latency, task)])]
        found.append(Table(title, tuple(columns), rows, tuple(below)))
    return found


def overall_table(summary: Mapping[str, Any]) -> Table:
    """Return the relative accuracies over all tasks, both of them, of the arms that ran on each."""
    headings = ("method", "budget", "mean accuracy", "mean of ratios", "ratio of means")
    rows = tuple(
        (
            one["name"],
            budget(one["arm"]["keep"]),
            *(NONE if one[name] is None else f"{one[name]:.3f}" for name in _OVERALL),
        )
        for one in summary["overall"]
    )
    tasks = summary["tasks"]
    return Table(f"All {len(tasks)} tasks: {', '.join(tasks)}", headings, rows, tuple(overall_notes(summary)))


_OVERALL = ("mean_accuracy", "mean_of_ratios", "ratio_of_means")


def budget(keep: int | float | None) -> str:
    """Return a budget in words: tokens, or a share of them."""
    if keep is None:
        return "all tokens"
    return (
        f"{keep} {'token' if keep == 1 else 'tokens'}" if isinstance(keep, int) else f"{100 * keep:g} % of the tokens"
    )


def interval(values: Sequence[float] | None) -> str:
    """Return ``"0.750 [0.417, 1.000]"``, a dash for None."""
    if values is None:
        return NONE
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _columns(
    arms: Sequence[Mapping[str, Any]], latency: Mapping[str, Any] | None, floor: float, task: str
) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Return the heading of each column, and what writes its cell of an arm."""
    names = rows_names(arms)
    sizes = {arm["group_a"]["questions"] for arm in arms if arm["group_a"] is not None}
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "method": lambda arm: names[slug(arm)],
        "tokens": _tokens,
        "accuracy": lambda arm: "refused" if arm["error"] is not None else interval(arm["accuracy"]),
        "rank": lambda arm: shown(arm["rank"]),
        "relative": lambda arm: interval(arm["relative"]),
        "q": lambda arm: _p(arm["q"], arm["p"], floor),
        "ahead of random": lambda arm: interval(arm["ahead_of_random"]) + MARKS[beside_random(arm)],
        "loyalty": lambda arm: interval(arm["loyalty"]),
        f"group A (n = {min(sizes)})" if len(sizes) == 1 else "group A": lambda arm: _group_a(arm, len(sizes) > 1),
    }
    if any(arm["empty"] for arm in arms):
        columns["empty"] = lambda arm: NONE if arm["error"] is not None else str(arm["empty"])
    if latency is not None:
        shared = times.of_task(latency, task)
        columns["time"] = lambda arm: _time(shared, arm)
    return columns


def _p(value: float | None, p: float | None, floor: float) -> str:
    """Return a corrected p, as a bound where its p is the least that the flips can give."""
    if value is None or p is None:
        return NONE
    return f"{'≤' if p <= floor * (1 + 1e-6) else ''}{value:.2g}"


def _group_a(arm: Mapping[str, Any], sized: bool) -> str:
    found = arm["group_a"]
    if found is None:
        return NONE
    return interval(found["accuracy"]) + (f" (n = {found['questions']})" if sized else "")


def _tokens(arm: Mapping[str, Any]) -> str:
    """Return the tokens that enter the language model, and the mean over its layers where some go inside it."""
    mean = mean_tokens(arm)
    more = "" if mean is None or mean == arm["tokens"] else f", mean {mean:.0f}"
    return _number(arm["tokens"], 1) + more


def mean_tokens(arm: Mapping[str, Any]) -> float | None:
    """Return an arm's visual tokens, the mean over those that enter each layer of the language model."""
    if arm["tokens"] is None:
        return None
    entering = [arm["tokens"], *arm["layers"][:-1]] if arm["layers"] else [arm["tokens"]]
    return float(sum(entering) / len(entering))


def _number(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:.{decimals}f}".removesuffix("." + "0" * decimals)


def _time(latency: Mapping[str, Any] | None, arm: Mapping[str, Any]) -> str:
    found = times.ratio(latency, Arm.from_dict(arm["arm"]), "overall")
    return NONE if found is None else f"{found:.3f}"
