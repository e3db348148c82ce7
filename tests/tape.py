"""A stand-in for a CUDA graph: kernels are recorded once and run again on the same memory, without our Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records what torch dispatches; `replay` overwrites the very tensors that came out while it was recorded."""

    limit: int | None = None  # kernels after which capturing fails

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if len(self.kernels) == self.limit:
            raise RuntimeError(f"kernel {self.limit} failed")
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = func(*args, **(kwargs or {}))
        self.kernels.append((func, args, kwargs or {}, made))
        return made

    def capture(self, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        with self:
            return run()

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, made in self.kernels:
            for old, new in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # a view has new values already
                    old.copy_(new)
