"""Pictures of what was kept and merged: pure functions from a picture and a source map to a picture."""

from __future__ import annotations

from .regions import regions, survivors
from .sheet import Row, sheet

__all__ = ["Row", "regions", "sheet", "survivors"]
