"""What every engine of these tests runs under: in this process, on one thread, without a network."""

from __future__ import annotations

import os

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_CPU_KVCACHE_SPACE="1",  # GiB
    VLLM_ENABLE_V1_MULTIPROCESSING="0",  # tests look into the model, and see where an error came from
    VLLM_NO_USAGE_STATS="1",
)


def look_here() -> None:
    """Let vLLM look at an architecture here: it starts a process for each, so that none touches a GPU."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda look: look()


@pytest.fixture(scope="session", autouse=True)
def _architectures_in_this_process() -> None:
    look_here()
