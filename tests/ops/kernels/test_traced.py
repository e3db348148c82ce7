"""The functions of the kernels are traced into one graph, kernels and all, whether or not there is a GPU to run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._triton

pytest.importorskip("triton", reason="needs the package triton")
from evoprune.ops.kernels import density, merging, order, received, scores

HEADS = torch.zeros(2, 20, 2, 24).transpose(1, 2)
TOKENS, SINGLE, INDEX = torch.zeros(2, 20, 32), torch.zeros(2, 20), torch.arange(20).expand(2, 20)
FIRST, SECOND = INDEX[:, 0::2], INDEX[:, 1::2]
DEALT = order.Dealt(FIRST, SECOND, FIRST * 0, SECOND * 0, INDEX > 20, INDEX > 20)
CALLS: dict[str, Callable[[], Any]] = {
    "received": lambda: received.column_means(HEADS, HEADS, 0.2, key_bias=SINGLE, query_mask=INDEX > 3),
    "density": lambda: density.weights(density.nearest(TOKENS, density.norms(TOKENS), 5), 1.0),
    "scores": lambda: scores.best_partners(TOKENS, SINGLE, SINGLE, FIRST, SECOND, SECOND > 20, "softmax"),
    "merging": lambda: merging.merge_rows(TOKENS, SINGLE, FIRST[:, :3], SECOND[:, :3], INDEX[:, 3:], False),
    "order": lambda: order.pick(FIRST.float(), FIRST, order.deal(SINGLE, (2, 20), 5, True, SINGLE.device), 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a GPU torch would not look for kernels at all.
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda **_: True)
    graphs: list[torch.fx.GraphModule] = []

    def look(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        return lambda *given: tuple(torch.zeros(1) for _ in outputs)

    torch._dynamo.reset()
    torch.compile(CALLS[name], fullgraph=True, backend=look)()
    assert len(graphs) == 1
    assert any("triton_kernel_wrapper" in str(node.target) for node in graphs[0].graph.nodes)
