"""Which run of a baseline an arm is compared with: the one at its budget and with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from ...pruners import METHODS
from ..arms import FULL, Arm
from .rows import Row

OWN = ("keep", "seed")  # the budget is compared by itself, and a seed is no setting that two methods share


def baseline(row: Row, ran: Sequence[Row], method: str) -> Row | None:
    """Return the run of `method` at a row's budget whose settings are the row's, None where there is none.

    They have to agree in the settings that both methods have (the positions, of most), where what is not given is the
    method's default. Where several agree, it is the one with the fewest settings of its own.
    """
    if row.arm.method == FULL:
        return None
    those = [one for one in ran if one.arm.method == method and one.budget == row.budget and _agree(row.arm, one.arm)]
    return min(those, key=lambda one: (len(one.arm.settings), one.arm.slug), default=None)


def _agree(arm: Arm, other: Arm) -> bool:
    mine, others = _settings(arm), _settings(other)
    return all(mine[name] == others[name] for name in mine.keys() & others.keys())


def _settings(arm: Arm) -> dict[str, Any]:
    """Return all settings that an arm's method has; of one without a pruner, or unknown here, those given."""
    known = METHODS.get(arm.method)
    defaults = {} if known is None else {one.name: one.default for one in fields(known) if one.default is not MISSING}
    return {name: value for name, value in {**defaults, **arm.settings}.items() if name not in OWN}
