"""The launches that the functions of the kernels would make, taken down from tensors without memory, and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64", torch.int32: "*i32",
    torch.int8: "*i8", torch.bool: "*i1",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages")


class Launch(NamedTuple):
    kernel: Any
    values: dict[str, Any]
    options: dict[str, int]


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Take launches down instead of making them."""
    launches: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        launches.append(Launch(self, dict(zip(self.arg_names, args, strict=False)) | kwargs, options))

    true = triton.JITFunction.run
    triton.JITFunction.run = run
    try:
        yield launches
    finally:
        triton.JITFunction.run = true


def compiled(launch: Launch, capability: int = 90) -> Any:
    """Compile a launch as triton would for its arguments, for a device that need not be there."""
    names = launch.kernel.arg_names
    constants = {param.name for param in launch.kernel.params if param.is_constexpr}
    signature, fixed, facts = {}, {}, {}
    for place, name in enumerate(names):
        value = launch.values[name]
        if name in constants or value is None or (isinstance(value, int) and value == 1):
            signature[name], fixed[(place,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name], even = POINTERS[value.dtype], True
        else:
            signature[name], even = ("fp32", False) if isinstance(value, float) else ("i32", value % 16 == 0)
        if even:
            facts[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, fixed, facts)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)


def everything(
    batch: int, length: int, width: int, heads: int, dtype: torch.dtype, merges: int = 52, similarity: str = "cosine"
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls of all functions for a layer of these sizes, on tensors without memory."""
    from evoprune.ops.kernels import density, merging, order, received, scores

    here = torch.device("meta")
    head = torch.empty(batch, length, heads, width // heads, dtype=dtype, device=here).transpose(1, 2)
    tokens = torch.empty(batch, length, width, dtype=dtype, device=here)
    single = torch.empty(batch, length, device=here)
    near = torch.empty(batch, length, 5, device=here)
    pair = torch.empty(batch, merges, dtype=torch.int64, device=here)
    kept = torch.empty(batch, length - merges, dtype=torch.int64, device=here)
    group = torch.empty(batch, length * 3 // 8, dtype=torch.int64, device=here)
    sums = torch.empty(batch, heads, length, device=here)
    yield "received", lambda: received.column_means(head, head, 0.1)
    yield "received with sums", lambda: received.column_means(head, head, 0.1, lse=sums, key_bias=single)
    yield "norms", lambda: density.norms(tokens)
    yield "nearest", lambda: density.nearest(tokens, single, 5)
    yield "weights", lambda: density.weights(near, 1.0)
    yield "scores", lambda: scores.best_partners(tokens, single, single, group, group, None, similarity)
    yield "merging", lambda: merging.merge_rows(tokens, single, pair, pair, kept, False)
    yield "deal", lambda: order.deal(single, (batch, length), length // 4, True, here)
    dealt = order.Dealt(group, group, group, group, single.bool(), single.bool())
    yield "pick", lambda: order.pick(group.float(), group, dealt, merges)
