"""Tensor parallelism: two ranks with one head each merge the same tokens, which are those of one process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import evoprune
from tests import builders
from tests.serve.vllm import checkpoints, rank

PRUNERS = [
    {"method": "evoprune", "keep": rank.KEEP},
    {"method": "tome", "keep": rank.KEEP},
    {"method": "fastervlm", "keep": rank.KEEP},
    {"method": "visionzip", "keep": rank.KEEP},
]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of two ranks found."""
    out = tmp_path_factory.mktemp("ranks")
    torch.save(pixels(), out / "pixels.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    task = {
        "folder": checkpoints.random("llava")[0], "architectures": ["llava", "backend"], "pruners": PRUNERS, "ranks": 2,
        "port": port, "out": str(out),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.serve.vllm.rank"]
    running = [
        subprocess.Popen([*command, json.dumps({**task, "rank": one})], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                         stdout=subprocess.DEVNULL)
        for one in range(2)
    ]  # fmt: skip
    try:
        said = [one.communicate(timeout=300)[1] for one in running]
    finally:
        for one in running:
            one.kill()
    assert [one.returncode for one in running] == [0, 0], said[0][-3000:] + said[1][-3000:]
    return [torch.load(out / f"{one}.pt", weights_only=False) for one in range(2)]


def pixels() -> torch.Tensor:
    shown = [builders.picture(seed) for seed in range(3)]
    return builders.processor().image_processor(shown, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("architecture", ["llava", "backend"])
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda one: one["method"])
def test_ranks_merge_the_tokens_that_one_process_merges(
    ranks: list[dict[Any, Any]], architecture: str, pruner: dict[str, Any]
) -> None:
    first, second = (one[architecture, pruner["method"]] for one in ranks)
    assert torch.equal(first["sources"], second["sources"])
    assert torch.equal(first["features"], second["features"])
    _, model, _ = checkpoints.random("llava")
    with torch.inference_mode(), evoprune.apply(model, evoprune.Pruner.from_dict(pruner)) as handle:
        features = torch.stack(list(model.get_image_features(pixels()).pooler_output))
        assert torch.equal(first["sources"], handle.stats.sources)
    torch.testing.assert_close(first["features"], features, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["llava", "backend"])
@pytest.mark.parametrize("method", ["evoprune", "fastervlm"])
def test_each_rank_sees_one_of_two_heads_and_alone_would_merge_other_tokens(
    ranks: list[dict[Any, Any]], architecture: str, method: str
) -> None:
    first, second = (one[architecture, "apart", method] for one in ranks)
    assert first["heads"] == second["heads"] == {1}
    assert not torch.equal(first["sources"], second["sources"])
