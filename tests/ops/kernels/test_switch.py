"""The switch between kernels and plain path, and what happens when a kernel does not run."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from evoprune.ops import kernels


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_failures", {})
    monkeypatch.delenv("EVOPRUNE_KERNELS", raising=False)


def test_the_operators_are_there_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import evoprune.ops; from evoprune.ops import kernels; "
        "assert not any(name.startswith('evoprune.ops.kernels.') for name in sys.modules); "
        "assert set(kernels.status().values()) == {'no triton'}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reference_path_nests_and_ends_after_errors() -> None:
    assert kernels.fast()
    with kernels.reference_path():
        with pytest.raises(KeyError), kernels.reference_path():
            raise KeyError
        assert not kernels.fast()
    assert kernels.fast()


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_KERNELS", "OFF")
    assert not kernels.fast()
    assert not kernels.usable(torch.zeros(2))
    assert set(kernels.status()) >= set(kernels.NAMES)
    assert set(kernels.status().values()) == {"off (EVOPRUNE_KERNELS=off)"}


def test_unknown_value_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_KERNELS", "interpet")
    with pytest.raises(ValueError, match=r"EVOPRUNE_KERNELS 'interpet': did you mean 'interpret'"):
        kernels.fast()


def test_usable_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.zeros(2, 3)
    assert not kernels.usable(tokens)  # on a CPU, unless interpreted
    monkeypatch.setenv("EVOPRUNE_KERNELS", "interpret")
    monkeypatch.setattr(kernels, "_has_triton", lambda: True)
    assert kernels.usable(tokens, None, torch.zeros(2, dtype=torch.int64))
    assert kernels.usable(tokens.bfloat16(), tokens.half())
    assert not kernels.usable()
    assert not kernels.usable(None)
    assert not kernels.usable(tokens, tokens.double())
    assert not kernels.usable(tokens, tokens.to("meta"))
    wanted = tokens.clone().requires_grad_()
    assert not kernels.usable(wanted)
    with torch.no_grad():
        assert kernels.usable(wanted)
    with kernels.reference_path():
        assert not kernels.usable(tokens)
    monkeypatch.setattr(kernels, "_has_triton", lambda: False)
    assert not kernels.usable(tokens)
    assert set(kernels.status().values()) == {"no triton"}


def test_a_kernel_that_fails_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_KERNELS", "interpret")
    monkeypatch.setattr(kernels, "_has_triton", lambda: True)
    calls = []

    def broken(tokens: torch.Tensor, factor: int) -> torch.Tensor:
        calls.append(factor)
        raise RuntimeError("out of resources:\n shared memory")

    with pytest.warns(RuntimeWarning) as caught:
        assert kernels.attempt("scores", broken, torch.zeros(2), 3) is None
    assert len(caught) == 1
    for word in (
        "'scores'",
        "cpu",
        "RuntimeError: out of resources: shared memory",
        "plain path",
        "EVOPRUNE_KERNELS=off",
    ):
        assert word in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.attempt("scores", broken, torch.zeros(2), 3) is None
        assert kernels.attempt("density", torch.neg, torch.ones(2)).tolist() == [-1, -1]  # the others go on
    assert calls == [3]
    found = kernels.status()
    assert found["scores"] == "failed: RuntimeError: out of resources: shared memory (cpu)"
    assert found["density"] == "interpreted"


def test_too_little_memory_is_no_failure_of_the_kernel() -> None:
    def hungry(tokens: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        kernels.attempt("scores", hungry, torch.zeros(2))
    assert "failed" not in kernels.status()["scores"]


def test_switch_and_attempt_compile_into_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_KERNELS", "interpret")
    monkeypatch.setattr(kernels, "_has_triton", torch.compiler.assume_constant_result(lambda: True))
    torch._dynamo.reset()

    def layer(tokens: torch.Tensor) -> torch.Tensor:
        if kernels.usable(tokens):
            found = kernels.attempt("scores", torch.neg, tokens)
            if found is not None:
                return found
        return tokens + 100

    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [-1, -1]
    with kernels.reference_path():
        assert compiled(torch.ones(2)).tolist() == [101, 101]
    assert compiled(torch.ones(2)).tolist() == [-1, -1]
