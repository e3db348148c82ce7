"""What a table of results shows, as text: shared by the terminal's tables and those of docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .results import CLOCKS, RATIOS, bases, clock, ratio, value

TIMES = ("preprocess", "encoder", "selection", "projector", "prefill", "ttft", "decode")
NAMES = {"ttft": "first token", "decode": "decode step", "pre_llm": "pre-LLM"}
UNREAD = {"native": "native as shipped", "native-read": "native without unread layers"}
ADDS_UP = 0.03  # a larger part of the whole that no stage holds is said


@dataclass(frozen=True)
class Column:
    """One column: its group (columns of one group stay together), its heading, and a cell an arm."""

    group: str
    heading: str
    cells: tuple[str, ...]


def columns(result: dict[str, Any], cell: dict[str, Any]) -> list[Column]:
    """Return the columns of one cell's table, an arm a row, those that any arm has; none where all arms failed."""
    arms = [arm for arm in cell["arms"] if not arm.get("error")]
    found = [
        Column("", "arm", tuple(arm_name(arm) for arm in arms)),
        Column("tokens", "kept", tuple(_count(arm.get("kept")) for arm in arms)),
        Column("tokens", "visual tokens", tuple(_count(arm.get("visual_tokens")) for arm in arms)),
        Column("tokens", "behind the LLM", tuple(_behind(arm.get("decoder_tokens")) for arm in arms)),
        *(column for stage in TIMES for column in _times(arms, stage)),
    ]
    ratios = [_ratios(result, cell, arms, kind) for kind in reversed(bases(cell))]
    found += [column for group in ratios[:1] for column in group]
    found += [_memory(arms, stage) for stage in ("encoder", "whole")]
    found += [column for group in ratios[1:] for column in group]
    return [column for column in found if any(column.cells)]


def arm_name(arm: dict[str, Any]) -> str:
    """Return an arm's name, with its schedule and the mode in which its encoder runs where they are not the usual."""
    words = [str(arm["name"])]
    if not usual(arm):
        words.append(schedule(arm))
    mode = arm.get("encoder_mode") or "eager"
    if mode != "eager" and mode not in words[0]:
        words.append(mode)
    return " ".join(words)


def schedule(arm: dict[str, Any]) -> str:
    """Return at which layers an arm merges: the schedule's name, nothing where its method has none."""
    found = (arm.get("pruner") or {}).get("schedule", "")
    return found if isinstance(found, str) else "own schedule"


def usual(arm: dict[str, Any]) -> bool:
    """Whether an arm has the schedule that its method has by default."""
    from ..pruners import METHODS

    method = METHODS.get((arm.get("pruner") or {}).get("method", ""))
    return schedule(arm) in ("", getattr(method, "schedule", ""))


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _behind(blocks: list[list[int]] | None) -> str:
    """Return how many visual tokens leave the language model, where a method drops some inside it."""
    return str(sum(layers[-1] for layers in blocks)) if blocks else ""


def _times(arms: list[dict[str, Any]], stage: str) -> list[Column]:
    """Median [p10, p90], in a unit that suits the column's largest median; beside the selection its share."""
    found = [(arm.get("seconds") or {}).get(stage) for arm in arms]
    scale, unit = time_unit(max((one["median"] for one in found if one), default=0.0))
    cells = tuple(_spread(one, scale) if one else "" for one in found)
    made = [Column("times", f"{NAMES.get(stage, stage)} {unit}", cells)]
    if stage == "selection":
        shares = [selected(arm) for arm in arms]
        made.append(Column("times", "of encoder", tuple("" if one is None else f"{one:.1%}" for one in shares)))
    return made


def _spread(found: dict[str, Any], scale: float) -> str:
    middle = short(found["median"] * scale)
    if len(found.get("all") or ()) == 1:  # one run has no spread
        return middle
    return f"{middle} [{short(found['p10'] * scale)}, {short(found['p90'] * scale)}]"


def _ratios(result: dict[str, Any], cell: dict[str, Any], arms: list[dict[str, Any]], kind: str) -> list[Column]:
    """Time ratios to one base with the FLOP ratio beside each."""
    to, group = bases(cell)[kind], f"ratio to {UNREAD[kind]}"

    def column(heading: str, stage: str, quantity: Any) -> Column:
        found = [ratio(arm, to, stage, quantity) for arm in arms]
        return Column(group, heading, tuple("" if one is None else f"{one:.3f}" for one in found))

    made = []
    for name, stage in RATIOS.items():
        if any(clock(result, arm) == "cpu_seconds" for arm in arms) and stage == "encoder":
            made.append(column(f"{name} × {CLOCKS['cpu_seconds']}", stage, "cpu_seconds"))
        made.append(column(f"{name} ×", stage, "seconds"))
        if any(made[-1].cells):
            of_tower = stage == "encoder"
            made.append(column("tower FLOP ×" if of_tower else "FLOP ×", stage, "tower_flops" if of_tower else "flops"))
    return made


def selected(arm: dict[str, Any]) -> float | None:
    """Return the selection's share of the arm's own encoder time, None where it selects nothing."""
    return ratio({"seconds": {"encoder": (arm.get("seconds") or {}).get("selection")}}, arm, "encoder")


def _memory(arms: list[dict[str, Any]], stage: str) -> Column:
    found = [value(arm, stage, "memory") for arm in arms]
    scale, unit = (2**30, "GiB") if max((one or 0 for one in found), default=0) >= 2**30 else (2**20, "MiB")
    cells = tuple("" if one is None else short(one / scale) for one in found)
    return Column("memory", f"{stage} peak {unit}", cells)


def time_unit(seconds: float) -> tuple[float, str]:
    """Return factor and name of the unit in which so many seconds are a number from 1 to 1000."""
    return next(((f, u) for f, u in ((1.0, "s"), (1e3, "ms")) if seconds * f >= 1.0), (1e6, "µs"))


def short(number: float) -> str:
    """Return `number` with three significant digits, never in powers of ten."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


def facts(result: dict[str, Any], cell: dict[str, Any]) -> str:
    """Return in one line what was measured, on what, and with which attention."""
    made, arms = result.get("manifest") or {}, cell["arms"]
    backends = {arm["kind"]: str(arm.get("attention")) for arm in arms if not arm.get("error")}
    same = len(set(backends.values())) <= 1
    named = [f"{kind} {backend}" for kind, backend in backends.items()]
    attention = next(iter(backends.values()), result["attention"]) if same else ", ".join(named)
    threads = f", {result['threads']} thread{'s' * (result['threads'] != 1)}" if result.get("threads") else ""
    return (
        f"{result['dtype']} on {made.get('device', result['device'])}{threads}; attention {attention}"
        f"{' in all arms' if same else ''}; {_runs(cell['repeats'])} after {cell['warmup']} to warm up"
    )


def _runs(repeats: int) -> str:
    return f"median [p10, p90] of {repeats} interleaved runs" if repeats > 1 else "one run"


def notes(result: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    """Return what has to be known to read the table: bases, FLOPs, and what is unusual."""
    told = list(bases(cell))
    lines = [f"Base: {UNREAD[told[-1]]}" + (f", and {UNREAD[told[0]]}" if len(told) > 1 else "") + "."] if told else []
    lines.append("tower FLOP: by the shape model, selection left out. FLOP: counted by torch, selection in it.")
    return lines + remarks(result, cell)


def remarks(result: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    """Return what is unusual about a cell."""
    states = (result.get("kernels") or {}).items()
    lines = [f"Kernel {name} {state}; the plain path ran." for name, state in states if state.startswith("failed")]
    batch = ((result.get("configuration") or {}).get("options") or {}).get("encoder_batch")
    lines += [f"Native encodes all at once, the other arms {batch} items at a time."] if batch else []
    lines += [] if bases(cell) else ["No native arm was measured, so there are no ratios."]
    loose = [(arm, arm.get("unaccounted") or 0.0) for arm in cell["arms"]]
    told = [f"{arm_name(arm)} {share:.1%}" for arm, share in loose if abs(share) > ADDS_UP]
    if told:
        lines.append(f"Time of the whole that is in no stage: {', '.join(told)}.")
    for arm in cell["arms"]:
        ran, asked = arm.get("encoder_mode_ran"), arm.get("encoder_mode") or "eager"
        if ran is not None and ran != asked:
            lines.append(f"{arm_name(arm)} ran {ran}: its encoder could not run as {asked}.")
    lines += [f"{arm_name(arm)} failed: {arm['error']}" for arm in cell["arms"] if arm.get("error")]
    return lines
