"""FitPrune's recipes: statistics of attention from a few prompts, and the search that meets a budget."""

from __future__ import annotations

from .run import fit

__all__ = ["fit"]
