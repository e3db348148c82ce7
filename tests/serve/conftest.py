"""Tests of what needs vLLM are in ``vllm/``: `make test-serve` runs them in an environment of their own."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("vllm") else ["vllm"]
