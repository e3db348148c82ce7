"""Tensor math, torch only: batched, static shapes, no host synchronisation. The reference that all else is
tested against."""

from .attention import attend, received_attention
from .density import cosines, distinctiveness, unit
from .matching import Matching, match
from .merging import initial_sources, merge, survivors, update_sources
from .partition import protected_count

__all__ = [
    "Matching",
    "attend",
    "cosines",
    "distinctiveness",
    "initial_sources",
    "match",
    "merge",
    "protected_count",
    "received_attention",
    "survivors",
    "unit",
    "update_sources",
]
