"""What a server is told: pruners as JSON in the checkpoint's config, and another budget for a single request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..pruners import Pruner

KEY = "evoprune"  # in the config of the checkpoint, which `--hf-overrides` adds to
KEEP = "evoprune_keep"  # among the `mm_processor_kwargs` of a request
SERVERS_OWN = ("truncation",)  # what vLLM itself adds to them
STAGES = ("encoder", "feature")
MOST = 2**31  # no model has as many tokens


@dataclass(frozen=True)
class Options:
    """The pruners that a server applies to every picture and frame.

    Attributes
    ----------
    pruners
        At most one of each of the stages encoder and feature.
    """

    pruners: tuple[Pruner, ...]

    @staticmethod
    def read(config: Any) -> Options:
        """Return the options in `config.evoprune`: what `Pruner.to_dict` gives, or a list of such dicts.

        Raises
        ------
        ValueError
            There are none, or a pruner that cannot be served; unknown names as `Pruner.from_dict` has them.
        """
        given = getattr(config, KEY, None)
        if given is None:
            raise ValueError(
                f"the config of this checkpoint has no {KEY!r}, so nothing says how to prune: start the server with "
                '--hf-overrides \'{"evoprune": {"method": "evoprune", "keep": 64}}\', or with `evoprune serve`'
            )
        rows = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        return Options.of([Pruner.from_dict(row) for row in rows])

    @staticmethod
    def of(pruners: Sequence[Pruner]) -> Options:
        """Return the options of `pruners`; ValueError for one that cannot be served."""
        if not pruners:
            raise ValueError("the list of pruners is empty: give at least one, for example evoprune.EvoPrune(keep=64)")
        for pruner in pruners:
            _check(pruner)
        return Options(tuple(pruners))

    def at(self, keep: Any) -> Options:
        """Return these options with another `keep`, None for the same.

        Raises
        ------
        ValueError
            `keep` is no budget, or there are several pruners, of which it could be either's.
        """
        if keep is None:
            return self
        if len(self.pruners) > 1:
            names = " and ".join(one.name for one in self.pruners)
            raise ValueError(f"{KEEP}={keep!r} could be the budget of {names}: leave it out where two pruners act")
        if isinstance(keep, bool) or not isinstance(keep, int | float):
            raise ValueError(
                f"{KEEP}={keep!r} is no budget: give tokens of each picture or frame, or a share in (0, 1]"
            )
        return Options((replace(self.pruners[0], keep=keep),))

    def to_json(self) -> str:
        """Return one line of JSON that is the same for the same options: it enters the names of cached results."""
        return json.dumps([one.to_dict() for one in self.pruners], sort_keys=True, separators=(",", ":"))


def _check(pruner: Pruner) -> None:
    if pruner.stage not in STAGES:
        raise ValueError(
            f"{pruner.name} acts at the {pruner.stage} stage, which a server does not have: choose a method of "
            f"{' or '.join(STAGES)} (`evoprune methods`)"
        )
    if pruner.positions != "contiguous":
        raise ValueError(
            f"positions={pruner.positions!r} cannot be served, as the server numbers a prompt's tokens one by one: "
            "leave it out"
        )
    if "relevance" in getattr(pruner, "needs", ()):
        raise ValueError(
            f"{pruner.name} reads the question, but a server encodes a picture once for all questions: choose a method "
            "that looks at the picture alone"
        )


def to_row(keep: int | float | None) -> list[float]:
    """Return a budget as two numbers that travel with a picture: its kind (0 none, 1 tokens, 2 a share), and itself."""
    if keep is None:
        return [0.0, 0.0]
    return [2.0 if isinstance(keep, float) else 1.0, float(keep)]


def from_row(row: Sequence[float]) -> int | float | None:
    """Return the budget that `to_row` wrote."""
    kind, value = row
    return None if not kind else float(value) if kind == 2.0 else int(value)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what else a request tells the processor: pixels of another shape would end the engine.

    Raises
    ------
    ValueError
        There is anything but a budget.
    """
    odd = sorted(set(arguments) - {KEEP, *SERVERS_OWN})
    if odd:
        raise ValueError(
            f"mm_processor_kwargs has {', '.join(map(repr, odd))}, but a request may set {KEEP} only: leave the rest "
            "out, or give it to the whole server with --mm-processor-kwargs"
        )


def requested(arguments: Mapping[str, Any]) -> int | float | None:
    """Return the budget in a request's `mm_processor_kwargs`, None where it asks for none.

    Raises
    ------
    ValueError
        It is no number, or no budget.
    """
    keep = arguments.get(KEEP)
    if keep is None:
        return None
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not -MOST < keep < MOST:  # not of NaN
        raise ValueError(f"{KEEP}={keep!r} is no budget: give tokens of each picture or frame, or a share in (0, 1]")
    return keep
