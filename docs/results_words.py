"""The sentences of docs/results.md, each computed from a summary: who is told apart from whom, and at what cost.

All comparisons are the summary's simultaneous ones (``ahead_of`` and ``behind`` of an arm), so that no two sentences
about a budget can contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from evoprune.evaluate.arms import FRAMES
from evoprune.evaluate.plots.style import group
from evoprune.evaluate.tables.names import beside_random, slug
from evoprune.evaluate.tables.rows import mean_tokens

Entry = Mapping[str, Any]
NOT = "not measured"


def share(keep: int | float) -> str:
    """``1/4`` of 0.25; tokens as they are."""
    return str(Fraction(keep).limit_denominator(1000)) if isinstance(keep, float) else f"{keep} tokens"


def random_of(arms: Sequence[Entry]) -> Entry | None:
    """Random at a budget, the one with the fewest settings where there are several."""
    found = [arm for arm in arms if arm["arm"]["method"] == "random"]
    return min(found, key=lambda arm: (len(arm["arm"]["settings"]), slug(arm)), default=None)


def sign(arm: Entry, other: Entry) -> int:
    """1 where an arm is told apart from another of its budget and ahead, -1 where behind, 0 where neither is known."""
    name = slug(other)
    return (name in (arm.get("ahead_of") or ())) - (name in (arm.get("behind") or ()))


def mark(arm: Entry) -> int:
    """`sign` beside random at the same budget with the same settings; 0 where that was not run, or not compared."""
    return beside_random(arm) if compared(arm) and "baselines" in arm else 0


def compared(arm: Entry) -> bool:
    """Whether the summary has comparisons of this arm."""
    return arm.get("ahead_of") is not None and arm.get("behind") is not None


def findings(result: Any) -> Iterator[str]:
    """Yield the items of a list: what the numbers say at each budget."""
    full = result.full
    if full is not None:
        entry = result.summary["tasks"][result.task]
        yield f"Unpruned: {_interval(full['accuracy'])} over {entry['questions']} questions, {entry['groups']} groups."
    for keep in result.keeps:
        arms = result.at(keep)
        said = [sentence for place in PLACES for sentence in _place(arms, *place)]
        said += [*_simpler(arms), *_hard(arms)]
        yield "\n".join(
            [f"**{share(keep)}{' of the tokens' * isinstance(keep, float)}**", *(f"  - {one}" for one in said)]
        )


PLACES = (("Before the LLM", ("encoder", "feature")), ("Inside the LLM, at more tokens", ("decoder",)))
"""Where methods cut, with the groups of the pictures; what has the budget's tokens only in later layers costs more."""


def _place(arms: Sequence[Entry], words: str, groups: Sequence[str]) -> Iterator[str]:
    """Methods that cut at one place beside random, and what is highest at that cost, baselines as well."""
    mine = [arm for arm in arms if group(arm["arm"]["method"]) in groups]
    peers = [arm for arm in arms if group(arm["arm"]["method"]) in (*groups, "sanity")] if "feature" in groups else mine
    floor = random_of(arms)
    known = [arm for arm in mine if compared(arm) and "random" in arm.get("baselines", ())]
    if known:
        parts = {
            said: [arm for arm in known if mark(arm) == wanted]
            for said, wanted in (("ahead", 1), ("not told apart", 0), ("behind", -1))
        }
        yield f"{words}, beside random: {'; '.join(f'{said}: {_names(part)}' for said, part in parts.items() if part)}."
    if mine and len(peers) > 1:
        best = max(peers, key=lambda arm: arm["accuracy"][0])
        yield (
            f"{words}, highest: {_name(best)} with {_interval(best['accuracy'])}{_more(best, floor)}"
            f"{_beside(best, peers)}."
        )


def _beside(best: Entry, peers: Sequence[Entry]) -> str:
    if not compared(best):
        return ""
    same = [arm for arm in peers if arm is not best and sign(best, arm) != 1]
    return f"; not told apart from it: {_names(same)}" if same else "; ahead of every other of them"


def _simpler(arms: Sequence[Entry]) -> Iterator[str]:
    """Inputs that anybody can make smaller, beside the methods and, apart, the other baselines."""
    floor = random_of(arms)
    for method, words in (("downsample", "Down-sampled input"), (FRAMES, "Fewer whole frames")):
        simple = next((arm for arm in arms if arm["arm"]["method"] == method), None)
        if simple is None:
            continue
        value, verb = simple["accuracy"][0], "are" if method == FRAMES else "is"
        lower = [arm for arm in arms if arm["accuracy"][0] < value]
        rivals = [arm for arm in lower if group(arm["arm"]["method"]) != "sanity"]
        others = [arm for arm in lower if group(arm["arm"]["method"]) == "sanity"]
        told = f"above {_apart(simple, rivals)}" if rivals else "above no method"
        if others:
            told += f"{'; of the baselines' if rivals else ', but of the baselines'} above {_apart(simple, others)}"
        yield f"{words} ({value:.3f}{_more(simple, floor)}) {verb} {told}."


def _apart(simple: Entry, lower: Sequence[Entry]) -> str:
    """Names, and from which of them it is told apart."""
    if not compared(simple):
        return _names(lower)
    surely = [arm for arm in lower if sign(simple, arm) == 1]
    if not surely:
        return f"{_names(lower)}, not told apart"
    if len(surely) == len(lower):
        return f"{_names(lower)}, told apart"
    return f"{_names(lower)}, told apart from {_names(surely)}"


def _more(simple: Entry, floor: Entry | None) -> str:
    """Frames are whole, and the smallest number of them may have more tokens than the budget."""
    mine, budget = simple["tokens"], None if floor is None else floor["tokens"]
    if simple["arm"]["method"] != FRAMES or mine is None or budget is None or mine <= budget:
        return ""
    return f" at {mine:.0f} tokens, more than random's {budget:.0f}"


def _hard(arms: Sequence[Entry]) -> Iterator[str]:
    known = [arm for arm in arms if arm["group_a"] and arm["group_a"]["accuracy"] is not None]
    values = [arm["group_a"]["accuracy"][0] for arm in known if group(arm["arm"]["method"]) != "sanity"]
    if not values:
        return
    floor = random_of(known)
    beside = "" if floor is None else f", random {_interval(floor['group_a']['accuracy'])}"
    span = f"{min(values):.3f}" if min(values) == max(values) else f"{min(values):.3f} to {max(values):.3f}"
    asked = known[0]["group_a"]["questions"]
    yield f"Of the {asked} questions that down-sampling loses (group A) methods keep {span}{beside}."


def conditions(result: Any) -> str:
    """What all arms of a result share, such as ``"original positions; random is the mean of 3 seeds"``."""
    arms = [arm for arm in result.arms if arm["arm"]["keep"] is not None]
    given = [arm["arm"]["settings"].get("positions") for arm in arms if "positions" in arm["arm"]["settings"]]
    said = [f"{given[0]} positions"] if given and len(set(given)) == 1 else []
    seeds = sorted({arm["seeds"] for arm in arms if arm["arm"]["method"] == "random" and arm["seeds"] > 1})
    if len(seeds) == 1:
        said.append(f"random is the mean of {seeds[0]} seeds")
    return "; ".join(said)


def _names(arms: Sequence[Entry]) -> str:
    return ", ".join(_name(arm) for arm in arms)


def _name(arm: Entry) -> str:
    """A name, with the mean tokens of what cuts inside the LLM."""
    mean = mean_tokens(arm)
    inside = mean is not None and arm["layers"] and mean != arm["tokens"]
    return f"`{arm['name']}`{f' (mean {mean:.0f} tokens)' if inside else ''}"


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"
