"""All kernels compile for Hopper, at the sizes of a real tower, whether or not there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs the package triton")
try:
    from tests.ops.kernels import recorded
except ImportError as error:  # the compiler's interface moves from release to release
    pytest.skip(f"this triton is compiled for in another way: {error}", allow_module_level=True)

SHARED = 227 * 1024  # bytes that a program may have on Hopper
# 64 frames of SigLIP so400m. Not `pick` and the like: their products of no size compile as anything else would.
CALLS = dict(recorded.everything(64, 729, 1152, 16, torch.bfloat16))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))


@pytest.mark.parametrize(("name", "call"), CALLS.items(), ids=CALLS)
def test_compiles(name: str, call: Callable[[], Any]) -> None:
    with recorded.recording() as launches:
        call()
    assert launches
    for launch in launches:
        found = recorded.compiled(launch)
        assert "sm_90" in found.asm["ptx"]
        assert found.metadata.shared <= SHARED
        if name in ("received with sums", "nearest", "scores"):
            text = found.asm["ttgir"]
            if "tt.dot" in text or "warp_group_dot" in text:
                assert "ttng.warp_group_dot" in text  # the fast products of Hopper
                assert "ttg.async_copy_global_to_local" in text  # loads of 16 bytes, ahead of their use
