"""Shared fixtures; the models are tiny, random and built in process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av  # noqa: F401  # before decord, which lmms-eval imports: its FFmpeg hides the encoders of PyAV's
import pytest
import torch

from tests import builders


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Let sums come out the same whatever the machine has."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def broken_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval switches this off for the whole process when it is imported."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", False)


@pytest.fixture(scope="session")
def shared_llava() -> Any:
    return builders.model()


@pytest.fixture
def llava(shared_llava: Any) -> Iterator[Any]:
    """A tiny LLaVA-1.5 that a test has to leave as it was."""
    before = {name: len(module._forward_hooks) for name, module in shared_llava.named_modules()}
    yield shared_llava
    assert "generate" not in shared_llava.__dict__ and "forward" not in shared_llava.__dict__, "a test left a pruner on"
    after = {name: len(module._forward_hooks) for name, module in shared_llava.named_modules()}
    assert {n for n in after if after[n] > before[n] + 1} == set()  # transformers adds one that captures outputs
