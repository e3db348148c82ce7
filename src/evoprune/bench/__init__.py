"""Measuring: native against pruned, stage by stage (`run.bench`), and what a run was made with."""

from .manifest import manifest

__all__ = ["manifest"]
