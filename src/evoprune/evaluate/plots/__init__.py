"""Pictures of a summary: accuracy by tokens, accuracy by measured time, and what each kind of question loses.

They need matplotlib (the extra ``plots``). SVG, PNG or PDF by the ending; equal results give equal files.
"""

from __future__ import annotations

from .kinds import change_by_kind
from .time import accuracy_by_time, pareto
from .tokens import accuracy_by_tokens

__all__ = ["accuracy_by_time", "accuracy_by_tokens", "change_by_kind", "pareto"]
