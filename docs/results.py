"""Writes docs/results.md and its pictures from the result folders of the embedded models, and from nothing else.

python docs/results.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_harness import harness
from results_words import NOT, conditions, findings, mark, share

from evoprune.evaluate.arms import FULL, Arm
from evoprune.evaluate.folder import Folder
from evoprune.evaluate.latency import times
from evoprune.evaluate.plots.style import named, styles
from evoprune.evaluate.tables import LEGEND, markdown, task_tables

ROOT = Path(__file__).parents[1]
FOLDERS = ROOT / "benchmarks" / "results" / "eval"
PAGE = Path(__file__).with_suffix(".md")
PICTURES = Path(__file__).with_suffix("")
MARKS = {1: " ▲", 0: "", -1: " ▼"}  # beside random at the same budget
MODELS = {"tiny_scenes": "tiny", "tiny_clips": "tiny-video"}
COMMANDS = {
    name: f"evoprune eval {model} --tasks {name} --methods all --keep 0.5,0.25,0.125,0.0625 --set positions=original"
    f" --latency --latency-batch 8 --output benchmarks/results/eval/{name}"
    for name, model in MODELS.items()
}
TITLES = {"tiny_scenes": "Pictures", "tiny_clips": "Videos"}
HEAT = 0.25  # the budget of the heat map
INTRODUCTION = """\
# Results on the embedded models

Every method at several budgets on the test splits of the embedded benchmarks, beside random dropping, an even grid,
down-sampled input and, for videos, fewer frames. The models are small and trained by this project: the numbers rank
methods on them, and say nothing of a method on a large model. `docs/evaluation.md` has the commands for those.

This page and its pictures are written by `python docs/results.py` from the folders in `benchmarks/results/eval`."""
MARKED = "▲ and ▼ mark what is told apart from random at the same budget, ahead or behind"
CORRECTED = "at 95 %, corrected for all pairs of arms of the budget"
READING = """\
## How to read it

- Unpruned, in tables `full`, is the model with all its tokens; a budget is the share of them that is kept.
- {marked}.
  Whatever is called ahead, behind or told apart is so {corrected}.
  Intervals are of one comparison each, so that one may leave out 0 where there is no mark.
- Equal budgets are not equal costs. Methods inside the LLM let all tokens into its first layers: `tokens` has those
  that enter it and the mean over its layers, and sentences speak of them apart. Fewer frames are whole frames, at least
  one, which at the smallest budgets has more tokens than others keep; down-sampled pictures and pooled features are the
  largest square that is no more than the budget.
- Original positions: kept tokens stay at the places that they had among all tokens, instead of closing up.
- Times are to the first token, as shares of the unpruned model's without the layers that nobody reads; wall time of
  the sweep itself is no measure of speed.
- {legend}"""


@dataclass(frozen=True)
class Result:
    """One task's part of a folder of results."""

    task: str
    summary: dict[str, Any]
    latency: dict[str, Any] | None
    manifest: list[dict[str, Any]]

    @property
    def arms(self) -> list[dict[str, Any]]:
        """Every arm's entry in the summary, named with what tells it from others of its name."""
        return named(self.summary["tasks"][self.task]["arms"])

    @property
    def keeps(self) -> list[int | float]:
        """The budgets, largest first."""
        keeps = [arm["arm"]["keep"] for arm in self.arms if arm["arm"]["keep"] is not None]
        return list({repr(keep): keep for keep in keeps}.values())  # 1 token is not the share 1.0

    def at(self, keep: int | float) -> list[dict[str, Any]]:
        """The arms that ran at a budget."""
        return [arm for arm in self.arms if repr(arm["arm"]["keep"]) == repr(keep) and arm["accuracy"]]

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
    return Result(task, summary, times.load(folder), folder.manifest()) if task in summary["tasks"] else None


def overview(result: Result, timed: float = HEAT) -> list[str]:
    """Return one row a method: relative accuracy at each budget with its mark, and the overall time at one of them."""
    keeps = result.keeps
    rows = [
        f"| method | {' | '.join(share(keep) for keep in keeps)} | overall time at {share(timed)} |",
        "|---" * (2 + len(keeps)) + "|",
    ]
    entries = {(arm["name"], repr(arm["arm"]["keep"])): arm for arm in result.arms}
    for name in styles(result.arms):
        cells = [_cell(entries.get((name, repr(keep)))) for keep in keeps]
        rows.append(f"| {name} | {' | '.join(cells)} | {_timed(result, entries.get((name, repr(timed))))} |")
    return rows


def _cell(arm: dict[str, Any] | None) -> str:
    if arm is None or arm["error"] or arm["relative"] is None:
        return "refused" if arm is not None and arm["error"] else ""
    return f"{arm['relative'][0]:.3f}{MARKS[mark(arm)]}"


def _timed(result: Result, arm: dict[str, Any] | None) -> str:
    clock = times.of_task(result.latency, result.task)
    found = None if arm is None else times.ratio(clock, Arm.from_dict(arm["arm"]), "overall")
    return NOT if found is None else f"{found:.2f}"


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


def timed(result: Result) -> bool:
    """Whether times of this task were measured."""
    clock = times.of_task(result.latency, result.task)
    return clock is not None and bool(clock["runs"])


def pictures(result: Result) -> dict[str, str]:
    """Return the names of a task's pictures that can be drawn, and what each shows."""
    found = {f"{result.task}-tokens.svg": "Accuracy over visual tokens, with 95 % intervals, by group of methods"}
    if timed(result):
        found[f"{result.task}-time.svg"] = (
            "Accuracy with 95 % intervals over the measured time to the first token; the line is the front, which noise"
            " moves as well"
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
    parts = [INTRODUCTION, READING.format(marked=MARKED, corrected=CORRECTED, legend=LEGEND)]
    for task, command in COMMANDS.items():
        result = load(task, folders)
        parts.append(f"## {TITLES[task]}")
        if result is None:
            parts.append(f"Not measured: this makes the folder.\n\n    {command}")
            continue
        parts += [commands(result), made(result), *_times(result)]
        parts.append("\n".join(f"- {sentence}" for sentence in findings(result)))
        told = conditions(result)
        parts.append(f"Accuracy relative to the unpruned model, by the share of tokens kept{told and f' ({told})'}:")
        parts.append("\n".join(overview(result)))
        parts += [f"![{words}]({PICTURES.name}/{name})\n\n*{words}.*" for name, words in pictures(result).items()]
        parts += [*tables(result), *harness(task, MODELS[task], folders)]
    return "\n\n".join(parts) + "\n"


def commands(result: Result) -> str:
    """Return the commands that the folder was made by, as its manifest has them, and the one that makes it anew."""
    ran = list(dict.fromkeys(str(facts["command"]) for facts in result.manifest if facts.get("command")))
    wanted = COMMANDS[result.task]
    if ran == [wanted]:
        return f"Made by\n\n    {wanted}"
    before = "Made by\n\n" + "\n".join(f"    {one}" for one in ran) if ran else "Made by a command that was not noted."
    return f"{before}\n\nThis makes it anew, with times:\n\n    {wanted}"


def _times(result: Result) -> Iterator[str]:
    if not timed(result):
        yield "Times: not measured."
        return
    told, runs = result.latency["configuration"], result.latency["runs"]  # type: ignore[index]
    clock = "processor time" if runs[0]["clock"] == "cpu_seconds" else "wall clock"
    threads = f" on {told['threads']} thread" if told["threads"] else ""
    yield (
        f"Times: {told['machine']}, {clock}{threads}, medians of {told['repeats']} rounds in which all arms of a budget"
        f" and the unpruned model take turns; {times.inputs(result.latency)}."  # type: ignore[arg-type]
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
