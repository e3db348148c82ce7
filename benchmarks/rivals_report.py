"""The tables of all methods beside each other, from results/rivals.json and results/greedy.json, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from evoprune.bench.columns import short
from evoprune.bench.results import ratio
from evoprune.evaluate.statistics import Interval, paired
from evoprune.pruners import METHODS
from evoprune.tiny import benchmark
from rivals import bits

STAGES = {"pre-LLM": "pre_llm", "LLM": "prefill", "overall": "ttft"}
MARKS = {1: " ▲", 0: "", -1: " ▼"}  # beside random at the same share


class Rivals:
    """The cells of a result, by method and share, at one kind of positions."""

    def __init__(self, data: dict[str, Any], positions: str = "original") -> None:
        self.data, self.positions = data, positions
        self.examples = benchmark.examples("test", data["scenes"])
        self.scenes = np.array([one.scene for one in self.examples])
        self.cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for cell in data["cells"].values():
            inside = "method" in cell and METHODS[cell["method"]].stage == "decoder"
            if "method" in cell and (inside or cell["positions"] == positions):
                self.cells.setdefault((cell["method"], cell["keep"]), []).append(cell)

    @cached_property
    def keeps(self) -> list[float]:
        """The shares, largest first."""
        return sorted({keep for _, keep in self.cells}, reverse=True)

    @cached_property
    def methods(self) -> list[str]:
        """The methods, in the registry's order."""
        found = {method for method, _ in self.cells}
        return [name for name in METHODS if name in found]

    @cached_property
    def unpruned(self) -> np.ndarray:
        """float (n,): 1 where the unpruned model's answer is right."""
        return bits(self.data["cells"]["unpruned"]).astype(float)

    def right(self, method: str, keep: float) -> np.ndarray | None:
        """float (n,): how right each answer is, the mean over seeds; None where it was not, or cannot be, measured."""
        cells = self.cells.get((method, keep), [])
        if not cells or any("error" in cell or cell["questions"] < len(self.examples) for cell in cells):
            return None
        return np.mean([bits(cell) for cell in cells], axis=0)

    def compare(self, mine: np.ndarray, theirs: np.ndarray, relative: bool) -> Interval:
        """Paired interval over scenes."""
        return paired(mine, theirs, self.scenes, relative=relative)

    def beside_random(self, method: str, keep: float) -> Interval | None:
        """Accuracy of a method minus that of random at the same share."""
        mine, floor = self.right(method, keep), self.right("random", keep)
        return None if method == "random" or mine is None or floor is None else self.compare(mine, floor, False)

    def tokens(self, method: str, keep: float) -> str:
        """Visual tokens that enter the language model; inside it, those that enter its last layer and the mean."""
        cell = self.cells[method, keep][0]
        if not cell["layers"]:
            return str(cell["tokens"])
        entering = [cell["tokens"], *cell["layers"][:-1]]
        return f"{cell['tokens']} to {cell['layers'][-1]}, mean {sum(entering) / len(entering):.0f}"

    def times(self, method: str, keep: float) -> list[str]:
        """Processor time of each stage to that of the unpruned model without unread layers."""
        measured = self.data.get("times") or {"arms": []}
        base = [arm for arm in measured["arms"] if arm["kind"] == "native-read"]
        mine = [
            arm for arm in measured["arms"]
            if arm["pruner"] and arm["kind"] == "pruned" and not arm["error"] and arm["name"] == f"{method} {keep}"
        ]  # fmt: skip
        if not base or not mine:
            return [""] * len(STAGES)
        found = (ratio(mine[0], base[0], stage, "cpu_seconds") for stage in STAGES.values())
        return ["" if one is None else f"{one:.2f}" for one in found]


def seeds(data: dict[str, Any]) -> int:
    """Return the number of seeds that random was measured with at each share."""
    keeps = [cell["keep"] for cell in data["cells"].values() if cell.get("method") == "random"]
    return max(map(keeps.count, keeps), default=0)


def share(keep: float) -> str:
    """``1/4`` of 0.25."""
    return str(Fraction(keep))


def tables(data: dict[str, Any]) -> Iterator[str]:
    """One table a share: accuracies with intervals, and times; behind each, what can and cannot be told apart."""
    rivals = Rivals(data)
    yield f"Unpruned: {rivals.unpruned.mean():.3f} over {len(rivals.examples)} questions about {data['scenes']} scenes."
    yield f"Random is the mean of {seeds(data)} seeds."
    if measured := data["times"] or {}:
        yield f"Times are medians of {measured['repeats']} interleaved rounds, {measured['batch']} prompts a call."
    for keep in rivals.keeps:
        yield from ("", f"### {share(keep)} of the tokens", "")
        headings = ("method", "tokens in the LLM", "accuracy", "relative accuracy", "ahead of random by", *STAGES)
        yield f"| {' | '.join(headings)} |"
        yield "|---" * len(headings) + "|"
        for method in rivals.methods:
            mine = rivals.right(method, keep)
            if mine is None:
                cell = rivals.cells.get((method, keep), [{}])[0]
                yield f"| {method} | {'cannot' if 'error' in cell else 'not measured'} |" + " |" * (3 + len(STAGES))
                continue
            gap = rivals.beside_random(method, keep)
            ahead = "" if gap is None else f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
            relative = rivals.compare(mine, rivals.unpruned, True)
            cells = [method, rivals.tokens(method, keep), f"{mine.mean():.3f}", str(relative), ahead]
            yield f"| {' | '.join([*cells, *rivals.times(method, keep)])} |"
        yield from ("", level(rivals, keep))


def level(rivals: Rivals, keep: float) -> str:
    """Who has the highest accuracy, and whose paired interval with it holds 0."""
    found = {method: right for method in rivals.methods if (right := rivals.right(method, keep)) is not None}
    best = max(found, key=lambda method: float(found[method].mean()))
    gaps = {m: rivals.compare(found[best], right, False) for m, right in found.items() if m != best}
    same = [method for method, gap in gaps.items() if gap.low <= 0]
    if not same:
        return f"`{best}` has the highest accuracy, and no other is within its interval."
    names = ", ".join(f"`{name}`" for name in same)
    return f"`{best}` has the highest accuracy; the interval of the gap to it holds 0 for {names}."


def summary(data: dict[str, Any]) -> Iterator[str]:
    """One row a method: relative accuracy at each share, and the overall time at a quarter."""
    rivals = Rivals(data)
    yield f"| method | {' | '.join(share(keep) for keep in rivals.keeps)} | overall time at 1/4 |"
    yield "|---" * (2 + len(rivals.keeps)) + "|"
    for method in rivals.methods:
        cells = []
        for keep in rivals.keeps:
            mine, gap = rivals.right(method, keep), rivals.beside_random(method, keep)
            sign = 0 if gap is None else (gap.low > 0) - (gap.high < 0)
            cells.append("" if mine is None else f"{mine.mean() / rivals.unpruned.mean():.3f}{MARKS[sign]}")
        yield f"| {method} | {' | '.join([*cells, rivals.times(method, 0.25)[-1]])} |"


def selections(data: dict[str, Any]) -> Iterator[str]:
    """The table of selections: batched against image by image."""
    facts = data["manifest"]
    yield (
        f"{facts['keep']} of {facts['tokens']} tokens of {facts['width']} dimensions (of methods that merge,"
        f" {facts['keep']} pairs), batch {facts['batch']}: processor time on one thread, median of {facts['repeats']}"
        " interleaved readings."
    )
    yield from ("", "| method | batched, ms | by image, ms | times as fast | shared picks |", "|---|---|---|---|---|")
    for name, one in data["methods"].items():
        milliseconds = (short(1000 * one["arms"][arm]["cpu_seconds"]) for arm in ("batched", "by image"))
        yield f"| {name} | {' | '.join(milliseconds)} | {one['times_faster']:.2f} | {one['shared_picks']:.3f} |"
    slower = [f"`{name}`" for name, one in data["methods"].items() if one["times_faster"] < 1]
    if slower:
        yield from ("", f"Slower than image by image: {', '.join(slower)}.")
