"""How fast it is meant to be: each goal, and what the result files in benchmarks/results/bench say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evoprune import EvoPrune
from evoprune.bench.columns import arm_name, selected
from evoprune.bench.results import CLOCKS, clock, fair, overhead, ratio, spread

NOT_MEASURED = "not measured"
VIDEO = ("llava-video-7b", "llava-onevision-7b")  # both read SigLIP so400m-384
IMAGE = ("llava-1.5-7b",)


@dataclass(frozen=True)
class Goal:
    """One row of the table of goals: which arm of which cell it is about, and the limit.

    Attributes
    ----------
    kind
        ``"flops"``: the time ratio is at most `limit` times the tower's FLOP ratio. ``"ratio"``: the time ratio is at
        most `limit`. ``"share"``: the selection takes at most `limit` of the pruned encoder's time. ``"memory"``: the
        peak memory is at most `limit` of the native one.
    models
        Presets that hold the tower or model in question.
    """

    case: str
    device: str
    kind: str
    limit: float
    keep: int
    models: tuple[str, ...] = VIDEO
    dtype: str = "bfloat16"
    stage: str = "encoder"
    frames: int | None = None
    images: int | None = None
    batch: int = 1

    def is_about(self, result: dict[str, Any], cell: dict[str, Any]) -> bool:
        """Whether this cell of this result measures the goal's case."""
        shown = (cell.get("frames") or None, cell.get("images") or None, cell["batch"])
        wanted = (self.frames, self.images, self.batch)
        where = str(result["device"]).startswith(self.device) and result["dtype"] == self.dtype
        machine = self.device != "cuda" or "H200" in str((result.get("manifest") or {}).get("device"))
        asked = result.get("configuration") or {}
        plain = not asked.get("options") and asked.get("native_read", True)
        return where and machine and plain and result["model"] in self.models and shown == wanted

    @property
    def text(self) -> str:
        """The limit as it is written in the table."""
        kinds = {
            "flops": f"≤ FLOP ratio × {self.limit}",
            "ratio": f"≤ {self.limit}",
            "share": f"≤ {self.limit:.0%} of the encoder",
            "memory": f"≤ {self.limit} of native",
        }
        return kinds[self.kind]


@dataclass(frozen=True)
class Outcome:
    """What was found: figures, verdict, and the result file they are from."""

    measured: str = NOT_MEASURED
    verdict: str = NOT_MEASURED
    file: str | None = None


FRAMES = "H200, SigLIP so400m, 64 frames, 729 → {keep}"
PICTURE = "H200, LLaVA-1.5-7B, {what}, 576 → {keep}: pre-LLM"
GOALS = (
    *(Goal(f"{FRAMES.format(keep=k)}: encoder", "cuda", "flops", 1.06, k, frames=64) for k in (64, 32, 16)),
    *(Goal(f"{FRAMES.format(keep=k)}: selection", "cuda", "share", 0.05, k, frames=64) for k in (64, 32, 16)),
    *(
        Goal(PICTURE.format(what="1 image", keep=k), "cuda", "ratio", 0.85, k, IMAGE, stage="pre_llm", images=1)
        for k in (128, 64, 32)
    ),
    *(
        Goal(
            PICTURE.format(what="batch 16", keep=k), "cuda", "ratio", limit, k, IMAGE, stage="pre_llm", images=1,
            batch=16,
        )
        for k, limit in ((128, 0.62), (64, 0.57), (32, 0.53))
    ),
    Goal(
        "H200, LLaVA-Video-7B, 64 frames, 16 a frame kept: first token", "cuda", "ratio", 0.25, 16, VIDEO[:1],
        stage="ttft", frames=64,
    ),
    *(
        Goal(
            f"CPU, SigLIP so400m, 2 frames, 729 → 64, {dtype}: encoder", "cpu", "flops", 1.06, 64, dtype=dtype, frames=2
        )
        for dtype in ("float32", "bfloat16")
    ),
    Goal(
        "CPU, CLIP-L/336, 1 image, 576 → 64, float32: encoder", "cpu", "flops", 1.08, 64, IMAGE, "float32", images=1
    ),
    Goal("H200, SigLIP so400m, 64 frames, 729 → 64: peak memory of the encoder", "cuda", "memory", 0.75, 64, frames=64),
)  # fmt: skip


def judge(goal: Goal, results: dict[str, dict[str, Any]]) -> Outcome:
    """Return what the results say about a goal: of each encoder mode the newest figure, of the modes the fastest."""
    newest = sorted(results.items(), key=lambda item: str((item[1].get("manifest") or {}).get("time")), reverse=True)
    modes: dict[str, tuple[float, Outcome]] = {}
    for name, result in newest:
        for cell in result["cells"]:
            for arm in _candidates(goal, cell) if goal.is_about(result, cell) else ():
                value = figure(goal, cell, arm)
                if value is not None:
                    outcome = Outcome(*_told(goal, result, cell, arm), file=name)
                    modes.setdefault(mode_of(arm), (value, outcome))
    return min(modes.values(), key=lambda pair: pair[0])[1] if modes else Outcome()


def _candidates(goal: Goal, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """EvoPrune's own arms with this budget and nothing else set, on the fast path, in whatever encoder mode."""
    default = EvoPrune(goal.keep).to_dict()
    return [
        arm
        for arm in _ours(goal, cell)
        if arm.get("path", "fast") == "fast" and all(default.get(k) == v for k, v in arm["pruner"].items())
    ]


def _ours(goal: Goal, cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        arm
        for arm in cell["arms"]
        if arm["kind"] == "pruned" and not arm.get("error") and arm.get("kept") == goal.keep
        and str(arm["name"]).split()[0] == "evoprune"
    ]  # fmt: skip


def figure(goal: Goal, cell: dict[str, Any], arm: dict[str, Any], quantity: Any = "seconds") -> float | None:
    """Return the number that is held against the goal's limit."""
    to = fair(cell)
    if goal.kind == "flops":
        return overhead(arm, to, goal.stage, quantity)
    if goal.kind == "share":
        return selected(arm)
    return ratio(arm, to, goal.stage, "memory" if goal.kind == "memory" else quantity)


def _told(goal: Goal, result: dict[str, Any], cell: dict[str, Any], arm: dict[str, Any]) -> tuple[str, str]:
    """Figures and verdict in words."""
    to, mode = fair(cell), mode_of(arm)
    suffix = "" if mode == "eager" else f" ({mode})"
    value = figure(goal, cell, arm)
    if goal.kind == "share":
        naive = [selected(one) for one in _ours(goal, cell) if one.get("path") == "naive"]
        beside = f"; naive torch {naive[0]:.1%}" if naive and naive[0] is not None else ""
        return f"{value:.1%}{beside}{suffix}", _met(value, goal.limit)
    if goal.kind == "memory":
        return f"{value:.3f}{suffix}", _met(value, goal.limit)
    quantities = ["seconds"] if clock(result, arm) == "seconds" else ["cpu_seconds", "seconds"]
    parts, verdicts = [], {}
    for quantity in quantities:
        verdicts[CLOCKS[quantity]] = _met(figure(goal, cell, arm, quantity), goal.limit)
        edges = spread(arm, to, goal.stage, quantity)  # type: ignore[arg-type]
        share = ratio(arm, to, goal.stage, "tower_flops") if goal.kind == "flops" else 1.0  # type: ignore[arg-type]
        if edges and share and edges[0] < goal.limit * share < edges[1]:
            verdicts[CLOCKS[quantity]] += " (limit within the spread)"
        between = f" [{edges[0]:.3f}, {edges[1]:.3f}]" if edges else ""
        by = f" by {CLOCKS[quantity]}" if len(quantities) > 1 else ""
        parts.append(f"{ratio(arm, to, goal.stage, quantity):.3f}{between}{by}")  # type: ignore[arg-type]
    if goal.kind == "flops":
        parts.append(f"FLOP ratio {ratio(arm, to, goal.stage, 'tower_flops'):.3f}")
    text = "; ".join(parts) + suffix
    if len(set(verdicts.values())) == 1:
        return text, next(iter(verdicts.values()))
    return text, ", ".join(f"{verdict} by {name}" for name, verdict in verdicts.items())


def mode_of(arm: dict[str, Any]) -> str:
    """Return how the arm's encoder really ran."""
    return str(arm.get("encoder_mode_ran") or arm.get("encoder_mode") or "eager")


def _met(value: float | None, limit: float) -> str:
    return NOT_MEASURED if value is None else "met" if value <= limit else "not met"


def peers(cell: dict[str, Any]) -> dict[str, dict[int | float, dict[str, Any]]]:
    """Return the pruned arms of a cell by method (the naive path is one of its own) and the `keep` asked for."""
    found: dict[str, dict[int | float, dict[str, Any]]] = {}
    for arm in cell["arms"]:
        if arm["kind"] == "pruned" and not arm.get("error"):
            keep = arm["pruner"]["keep"]
            words = [word for word in arm_name(arm).split() if word != str(keep)]
            found.setdefault(" ".join(words), {})[keep] = arm
    return found
