"""Writes docs/results.md and its pictures from the result folders of the embedded models, and from nothing else.

python docs/results.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from evoprune.evaluate.arms import FRAMES, FULL, Arm
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.latency.times import load as times_of
from evoprune.evaluate.latency.times import ratio
from evoprune.evaluate.plots.style import group, styles
from evoprune.evaluate.tables import LEGEND, markdown, task_tables

ROOT = Path(__file__).parents[1]
FOLDERS = ROOT / "benchmarks" / "results" / "eval"
PAGE = Path(__file__).with_suffix(".md")
PICTURES = Path(__file__).with_suffix("")
MARKS = {1: " ▲", 0: "", -1: " ▼"}  # beside random at the same budget
COMMANDS = {
    name: f"evoprune eval {model} --tasks {name} --methods all --keep 0.5,0.25,0.125,0.0625 --set positions=original"
    f" --latency --output benchmarks/results/eval/{name}"
    for name, model in {"tiny_scenes": "tiny", "tiny_clips": "tiny-video"}.items()
}
TITLES = {"tiny_scenes": "Pictures", "tiny_clips": "Videos"}
HEAT = 0.25  # the budget of the heat map
INTRODUCTION = """\
# Results on the embedded models

Every method at four budgets on the test splits of the embedded benchmarks, beside random dropping (3 seeds), an even
grid, down-sampled input and, for videos, fewer frames. The models are small and trained by this project: the numbers
rank methods on them, and say nothing of a method on a large model. `docs/evaluation.md` has the commands for those.

This page and its pictures are written by `python docs/results.py` from the folders in `benchmarks/results/eval`."""
READING = """\
## How to read it

{legend}

▲ and ▼ mark accuracies whose paired 95 % interval against random at the same budget lies above or below 0: each for
itself, while `q` and `rank` reckon with how many comparisons there are. Methods
inside the language model let all tokens into its first layers, so that equal budgets are not equal costs: `tokens` has
those that enter it, and the mean over its layers. Down-sampled pictures and pooled features leave the largest square
that is no more than the budget. Times are to the first token, as shares of the unpruned model's without the layers that
nobody reads; wall time of the sweep itself is no measure of speed."""


@dataclass(frozen=True)
class Result:
    """One task's part of a folder of results."""

    task: str
    summary: dict[str, Any]
    latency: dict[str, Any] | None
    manifest: list[dict[str, Any]]

    @property
    def arms(self) -> list[dict[str, Any]]:
        """Every arm's entry in the summary."""
        return self.summary["tasks"][self.task]["arms"]

    @property
    def keeps(self) -> list[int | float]:
        """The budgets, largest first."""
        return list(dict.fromkeys(arm["arm"]["keep"] for arm in self.arms if arm["arm"]["keep"] is not None))

    def at(self, keep: int | float) -> list[dict[str, Any]]:
        """The arms that ran at a budget."""
        return [arm for arm in self.arms if arm["arm"]["keep"] == keep and arm["accuracy"] is not None]

    @property
    def full(self) -> dict[str, Any] | None:
        """The unpruned model's entry."""
        return next((arm for arm in self.arms if arm["arm"]["method"] == FULL and arm["accuracy"]), None)


def load(task: str, folders: Path = FOLDERS) -> Result | None:
    """Return what a folder holds of the task it is named after, None where there is no such folder."""
    if not (folders / task / "configuration.json").exists():
        return None
    folder = Folder(folders / task)
    path = folder.path / "summary.json"
    if path.exists():
        summary = json.loads(path.read_text(encoding="utf-8"))
    else:
        from evoprune.evaluate.summary import summarise

        summary = summarise(folder)
    return Result(task, summary, times_of(folder), folder.manifest()) if task in summary["tasks"] else None


def share(keep: int | float) -> str:
    """``1/4`` of 0.25; tokens as they are."""
    return str(Fraction(keep).limit_denominator(1000)) if isinstance(keep, float) else f"{keep} tokens"


def overview(result: Result, timed: float = HEAT) -> list[str]:
    """Return one row a method: relative accuracy at each budget with its mark, and the overall time at one of them."""
    rows = [
        f"| method | {' | '.join(share(keep) for keep in result.keeps)} | overall time at {share(timed)} |",
        "|---" * (2 + len(result.keeps)) + "|",
    ]
    for name in styles(result.arms):
        cells, time = [], ""
        for keep in result.keeps:
            arm = next((one for one in result.at(keep) if one["name"] == name), None)
            if arm is None or arm["relative"] is None:
                refused = any(
                    one["name"] == name and one["arm"]["keep"] == keep and one["error"] for one in result.arms
                )
                cells.append("refused" if refused else "")
                continue
            cells.append(f"{arm['relative'][0]:.3f}{MARKS[sign(arm)]}")
            if keep == timed:
                found = ratio(result.latency, Arm.from_dict(arm["arm"]), "overall")
                time = "" if found is None else f"{found:.2f}"
        rows.append(f"| {name} | {' | '.join(cells)} | {time} |")
    return rows


def sign(arm: dict[str, Any]) -> int:
    """1 where an arm is surely ahead of random at its budget, -1 where it is surely behind."""
    gap = arm["ahead_of_random"]
    return 0 if gap is None else (gap[1] > 0) - (gap[2] < 0)


def tables(result: Result) -> list[str]:
    """Return the tables of all budgets in Markdown, with intervals, times and notes."""
    return [markdown(table).rstrip() for table in task_tables(result.summary, result.task, result.latency)]


def made(result: Result) -> str:
    """Return what the folder was made with: versions, device, commit."""
    said = []
    for facts in result.manifest:
        packages, changed = facts.get("packages", {}), " with changes" if facts.get("changed") else ""
        said.append(
            f"{facts.get('device')}, {facts.get('threads')} thread, torch {packages.get('torch')}, transformers"
            f" {packages.get('transformers')}, commit {str(facts.get('commit'))[:12]}{changed}"
        )
    return f"Measured with {'; then '.join(dict.fromkeys(said)) or 'nothing that was noted'}."


def findings(result: Result) -> Iterator[str]:
    """Yield the items of a list: what the numbers say at each budget, each sentence computed."""
    full = result.full
    if full is not None:
        entry = result.summary["tasks"][result.task]
        yield f"Unpruned: {_interval(full['accuracy'])} over {entry['questions']} questions, {entry['groups']} groups."
    for keep in result.keeps:
        arms = result.at(keep)
        rivals = [arm for arm in arms if group(arm["arm"]["method"]) != "sanity"]
        said = [*_random(rivals), *_best(arms), *_simpler(arms, rivals), *_hard(arms)]
        yield "\n".join(
            [f"**{share(keep)}{' of the tokens' * isinstance(keep, float)}**", *(f"  - {one}" for one in said)]
        )


def _random(rivals: Sequence[dict[str, Any]]) -> Iterator[str]:
    known = [arm for arm in rivals if arm["ahead_of_random"] is not None]
    if known:
        parts = [[arm for arm in known if sign(arm) == wanted] for wanted in (1, 0, -1)]
        words = ("ahead of random beyond the interval", "not told apart from it", "behind it")
        told = [f"{_names(part)} {_are(part)} {word}" for part, word in zip(parts, words, strict=True) if part]
        yield f"{'; '.join(told)}."


def _best(arms: Sequence[dict[str, Any]]) -> Iterator[str]:
    ranked = [arm for arm in arms if arm["rank"] is not None]
    if not ranked:
        return
    best = max(ranked, key=lambda arm: arm["accuracy"][0])
    same = [arm for arm in ranked if arm is not best and arm["rank"][0] == 1]
    told = f"not told apart from it: {_names(same)}" if same else "every other is behind it beyond the interval"
    yield f"Highest: `{best['name']}` with {_interval(best['accuracy'])}; {told}."


def _simpler(arms: Sequence[dict[str, Any]], rivals: Sequence[dict[str, Any]]) -> Iterator[str]:
    for method, words in (("downsample", "Down-sampled input"), (FRAMES, "Fewer whole frames")):
        simple = next((arm for arm in arms if arm["arm"]["method"] == method), None)
        if simple is None:
            continue
        value = simple["accuracy"][0]
        below = [arm for arm in rivals if arm["accuracy"][0] < value]
        surely = [arm for arm in below if arm["rank"] and simple["rank"] and arm["rank"][0] > simple["rank"][1]]
        if below:
            beyond = f", beyond the interval above {_names(surely)}" if surely else ", within the interval"
            yield f"{words} ({value:.3f}) {'are' if method == FRAMES else 'is'} above {_names(below)}{beyond}."
        else:
            yield f"{words} ({value:.3f}) {'are' if method == FRAMES else 'is'} above no method."


def _hard(arms: Sequence[dict[str, Any]]) -> Iterator[str]:
    known = [arm for arm in arms if arm["group_a"] and arm["group_a"]["accuracy"] is not None]
    if known:
        best = max(known, key=lambda arm: arm["group_a"]["accuracy"][0])
        floor = next((arm for arm in known if arm["arm"]["method"] == "random"), None)
        beside = "" if floor is None or floor is best else f", random {_interval(floor['group_a']['accuracy'])}"
        yield (
            f"Of the {best['group_a']['questions']} questions that down-sampling loses (group A) `{best['name']}` keeps"
            f" most: {_interval(best['group_a']['accuracy'])}{beside}."
        )


def _names(arms: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"`{arm['name']}`" for arm in arms)


def _are(arms: Sequence[Any]) -> str:
    return "is" if len(arms) == 1 else "are"


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def pictures(result: Result) -> dict[str, str]:
    """Return the names of a task's pictures that can be drawn, and what each shows."""
    found = {f"{result.task}-tokens.svg": "Accuracy over visual tokens, with 95 % intervals, by group of methods"}
    if result.latency is not None and result.latency["runs"]:
        found[f"{result.task}-time.svg"] = (
            "Accuracy over the measured time to the first token; the line is the front, which noise moves as well"
        )
    if HEAT in result.keeps and result.full is not None and result.full["kinds"]:
        found[f"{result.task}-kinds.svg"] = f"Change of accuracy by kind of question at {share(HEAT)} of the tokens"
    return found


def draw(result: Result, folder: Path = PICTURES) -> None:
    """Write a task's pictures."""
    from evoprune.evaluate import plots

    folder.mkdir(exist_ok=True)
    for name in pictures(result):
        if name.endswith("-tokens.svg"):
            plots.accuracy_by_tokens(result.summary, result.task, folder / name)
        elif name.endswith("-time.svg"):
            plots.accuracy_by_time(result.summary, result.latency, result.task, folder / name)
        else:
            plots.change_by_kind(result.summary, result.task, HEAT, folder / name)


def page(folders: Path = FOLDERS) -> str:
    """Return the page; what has no folder is said to be not measured."""
    parts = [INTRODUCTION]
    for task, command in COMMANDS.items():
        result = load(task, folders)
        parts.append(f"## {TITLES[task]}")
        if result is None:
            parts.append(f"Not measured: this makes the folder.\n\n    {command}")
            continue
        parts += [f"Made by\n\n    {command}\n\n{made(result)}", *_times(result)]
        parts.append("\n".join(f"- {sentence}" for sentence in findings(result)))
        parts.append("\n".join(overview(result)))
        parts += [f"![{words}]({PICTURES.name}/{name})\n\n*{words}.*" for name, words in pictures(result).items()]
        parts += tables(result)
    return "\n\n".join([*parts, READING.format(legend=LEGEND)]) + "\n"


def _times(result: Result) -> Iterator[str]:
    if result.latency is None or not result.latency["runs"]:
        yield "Times: not measured."
        return
    told = result.latency["configuration"]
    clock = "processor time" if result.latency["runs"][0]["clock"] == "cpu_seconds" else "wall clock"
    threads = f" on {told['threads']} thread" if told["threads"] else ""
    yield (
        f"Times: {told['machine']}, {clock}{threads}, medians of {told['repeats']} rounds in which all arms of a budget"
        f" and the unpruned model take turns, batch {told['batch']}."
    )


def write() -> None:
    """Write the page and its pictures."""
    PAGE.write_text(page(), encoding="utf-8")
    for name in COMMANDS:
        measured = load(name)
        if measured is not None:
            draw(measured)


if __name__ == "__main__":
    write()
