"""What ``evoprune doctor`` says about the kernels."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner, Result

from evoprune.cli import app
from evoprune.ops import kernels


def doctor(*more: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *more])


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_failures", {})
    monkeypatch.delenv("EVOPRUNE_KERNELS", raising=False)


def test_every_kernel_has_a_state() -> None:
    found = json.loads(doctor("--json").stdout)["gpu_kernels"]
    assert set(found["status"]) == set(kernels.NAMES)
    assert found["switch"] == {"EVOPRUNE_KERNELS": "auto", "choices": ["auto", "off", "interpret"]}
    assert set(found["status"].values()) == {"ready"} or not torch.cuda.is_available()
    assert torch.cuda.is_available() or set(found["status"].values()) <= {"no CUDA device", "no triton"}


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_KERNELS", "off")
    found = json.loads(doctor("--json").stdout)["gpu_kernels"]
    assert set(found["status"].values()) == {"off (EVOPRUNE_KERNELS=off)"}
    assert found["switch"]["EVOPRUNE_KERNELS"] == "off"
    assert "EVOPRUNE_KERNELS=off" in doctor().stdout


def test_a_failure_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has_triton", lambda: True)
    monkeypatch.setattr(kernels, "_failures", {("merging", "cuda:0"): "OutOfResources: shared memory [128 KiB]"})
    result = doctor()
    assert result.exit_code == 0
    assert "failed: OutOfResources: shared memory [128 KiB] (cuda:0)" in " ".join(result.stdout.split())


def test_unknown_value_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_KERNELS", "of")
    result = doctor()
    assert result.exit_code == 2
    assert "did you mean 'off'" in result.stderr
