"""Measuring: what a run was made with, and (in time) stage-by-stage latency."""

from .manifest import manifest

__all__ = ["manifest"]
