"""What is compared: the unpruned model, methods at their budgets, and the sanity baselines beside them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..pruners import Pruner, get

FULL, FRAMES = "full", "frames"  # the unpruned model, and fewer frames of a video with all their tokens
SEEDS = (0, 1, 2)  # of random, which is one row: the mean of its seeds
SANITY = ("random", "grid", "downsample")


@dataclass(frozen=True)
class Arm:
    """One way to run the model.

    Attributes
    ----------
    method
        Of the registry, or ``"full"`` or ``"frames"``.
    keep
        As in the pruners; None of the unpruned model.
    settings
        Further settings of the pruner, JSON values.
    seed
        Of random; None of what has none.
    label
        What tables call it, the method's name by default.
    """

    method: str
    keep: int | float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.label or self.method

    @property
    def slug(self) -> str:
        """Name of its files, unique by what it does."""
        parts = [self.label or self.method, *([] if self.keep is None else [repr(self.keep)])]
        parts += [] if self.seed is None else [f"seed{self.seed}"]
        if self.settings:
            told = json.dumps([self.method, dict(self.settings)], sort_keys=True)
            parts.append(hashlib.sha256(told.encode()).hexdigest()[:6])
        return re.sub(r"[^\w.-]+", "-", "_".join(parts)).strip("-")

    def pruner(self, defaults: Mapping[str, Any] | None = None) -> Pruner | None:
        """Return the pruner, None where the arm has none.

        Parameters
        ----------
        defaults
            Settings that the model brings along (its recipe, its text tower), for those that the arm leaves open.

        Raises
        ------
        ValueError
            A setting that the method refuses.
        """
        if self.method in (FULL, FRAMES):
            return None
        known = {one.name for one in fields(get(self.method))}
        given = {name: value for name, value in (defaults or {}).items() if name in known}
        given |= self.settings
        seed = {} if self.seed is None else {"seed": self.seed}
        return Pruner.from_dict({"method": self.method, "keep": self.keep, **given, **seed})

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Arm:
        """Return the arm that `to_dict` described."""
        return cls(**values)


def arms(
    methods: Sequence[str],
    keeps: Sequence[int | float],
    settings: Mapping[str, Any] | None = None,
    *,
    sanity: bool = True,
    video: bool = False,
    seeds: Sequence[int] = SEEDS,
) -> list[Arm]:
    """Return the unpruned model, then every method at every budget, without repeats.

    Parameters
    ----------
    methods
        Of the registry, or ``"frames"``; random brings all its `seeds`.
    settings
        Given to each method that has such a setting.
    sanity
        Add random, grid and down-sampled input, and fewer frames of a `video`, at every budget.

    Raises
    ------
    ValueError
        An unknown method, or a setting that it refuses.
    """
    wanted = dict.fromkeys(methods)
    if sanity:
        wanted |= dict.fromkeys([*SANITY, *([FRAMES] if video else [])])
    found = [Arm(FULL)]
    found += [
        arm for keep in keeps for method in wanted if method != FULL for arm in _at(method, keep, settings, seeds)
    ]
    for arm in found:
        arm.pruner()
    return list({arm.slug: arm for arm in found}.values())


def _at(method: str, keep: int | float, settings: Mapping[str, Any] | None, seeds: Sequence[int]) -> Iterator[Arm]:
    if method == FRAMES:
        yield Arm(FRAMES, keep)
        return
    known = {one.name for one in fields(get(method))}
    given = {name: value for name, value in (settings or {}).items() if name in known}
    if method != "random" or "seed" in given:
        yield Arm(method, keep, given)
        return
    for seed in seeds:
        yield Arm(method, keep, given, seed)
