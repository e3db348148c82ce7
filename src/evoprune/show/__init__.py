"""Pictures of what was kept and merged: pure functions from a picture and a source map to a picture."""

from __future__ import annotations

from .animation import Film, animation, save_animation
from .regions import regions, survivors
from .sheet import Row, sheet

__all__ = ["Film", "Row", "animation", "regions", "save_animation", "sheet", "survivors"]
