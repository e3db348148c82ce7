"""Tables of a summary as rows of strings, which the terminal, documents and papers print alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arms import FULL, Arm
from ..statistics.ranks import shown

NONE = "–"
LEGEND = (
    "In brackets: 95 % intervals, paired bootstrap over groups of questions. relative: accuracy / unpruned accuracy. "
    "q: p of the difference to the unpruned model (signs of groups flipped), corrected for all arms of the task "
    "(Benjamini-Hochberg). loyalty: share of answers equal to the unpruned model's. group A: accuracy where the "
    "unpruned model is right and down-sampled input is wrong. rank: all that are left at 95 %, for all pairs at once."
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
        columns = _columns([*full, *arms], latency)
        rows = tuple(tuple(cell(arm) for cell in columns.values()) for arm in [*full, *arms])
        found.append(Table(title, tuple(columns), rows, tuple(_notes(entry["questions"], [*full, *arms], missing))))
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
    return Table(f"All {len(tasks)} tasks: {', '.join(tasks)}", headings, rows)


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


def _columns(arms: Sequence[Mapping[str, Any]], latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the heading of each column, and what writes its cell of an arm."""
    names = [arm["name"] for arm in arms]
    hard = next((arm["group_a"]["questions"] for arm in arms if arm["group_a"] is not None), None)
    columns: dict[str, Any] = {
        "method": lambda arm: _name(arm, names.count(arm["name"]) > 1),
        "tokens": _tokens,
        "accuracy": lambda arm: "refused" if arm["error"] is not None else interval(arm["accuracy"]),
        "rank": lambda arm: shown(arm["rank"]),
        "relative": lambda arm: interval(arm["relative"]),
        "q": lambda arm: NONE if arm["q"] is None else f"{arm['q']:.2g}",
        "ahead of random": lambda arm: interval(arm["ahead_of_random"]),
        "loyalty": lambda arm: interval(arm["loyalty"]),
        f"group A (n = {hard})" if hard is not None else "group A": lambda arm: interval(
            None if arm["group_a"] is None else arm["group_a"]["accuracy"]
        ),
    }
    if any(arm["empty"] for arm in arms):
        columns["empty"] = lambda arm: NONE if arm["error"] is not None else str(arm["empty"])
    if latency is not None:
        columns["time"] = lambda arm: _time(latency, arm)
    return columns


def _name(arm: Mapping[str, Any], shared: bool) -> str:
    """Return what an arm is called, with its settings where another one has its name."""
    settings = ", ".join(f"{name}={value}" for name, value in sorted(arm["arm"]["settings"].items()))
    return f"{arm['name']} ({settings})" if shared and settings else arm["name"]


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


def _time(latency: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    from ..latency import ratio

    found = ratio(latency, Arm.from_dict(arm["arm"]), "overall")
    return NONE if found is None else f"{found:.3f}"


def _notes(questions: int, arms: Sequence[Mapping[str, Any]], missing: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what has to be known beside the numbers."""
    if missing:
        names = [f"{gap['method']} ({'not run' if gap['error'] is None else 'refused'})" for gap in missing]
        yield f"no sanity baselines: {', '.join(names)}"
    for arm in arms:
        if arm["seeds"] > 1:
            yield f"{arm['name']} = mean of {arm['seeds']} seeds"
        if arm["error"] is not None:
            yield f"{arm['name']} refused: {arm['error']}"
        if arm["empty"]:
            asked = questions * arm["seeds"]
            yield f"warning: {arm['empty']} of {asked} answers of {arm['name']} are empty, and count as scored"
    if any(arm["group_a"] is not None and not arm["group_a"]["questions"] for arm in arms):
        yield "group A is empty: down-sampled input gets nothing wrong that the unpruned model gets right"
