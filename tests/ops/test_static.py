"""Static shapes, no host synchronisation, one graph: what CUDA graphs and torch.compile ask for."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from evoprune import ops

SETTINGS = [
    {},
    {"diversity": 0.0},
    {"similarity": "softmax", "partition": "index"},
    {"padding": True},
    {"padding": True, "partition": "index", "bandwidth": 0.5},
    {"critical_ratio": 0.0},
]


def layer(query, key, tokens, sizes, sources, absent, settings, order):
    padding = settings.get("padding")
    rest = {k: v for k, v in settings.items() if k != "padding"}
    importance = ops.received_attention(query, key, 0.25, key_bias=sizes.log(), query_mask=~absent)
    found = ops.match(tokens, importance, 5, protected=absent if padding else None, **rest)
    merged, total = ops.merge(tokens, sizes, found, order=order)
    return merged, total, ops.update_sources(sources, found, order), ops.survivors(found, order)


def inputs(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 4, 24, 8, generator=generator) for _ in range(2))
    absent = torch.arange(24)[None] >= torch.tensor([[24], [17]])
    tensors = query, key, torch.randn(2, 24, 16, generator=generator), torch.ones(2, 24)
    return *(t.to(device) for t in tensors), ops.initial_sources(2, 24, device).clone(), absent.to(device)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_shapes_do_not_depend_on_data(settings):
    # A fake tensor has no values: whatever reads one (.item(), a boolean index, an if) raises.
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in inputs()]
        merged, total, sources, rows = layer(*fake, settings, "tome")
    assert merged.shape == (2, 19, 16)
    assert total.shape == rows.shape == (2, 19)
    assert sources.shape == (2, 24)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_compiles_into_one_graph(settings):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(
        compiled(*inputs(), settings, "raster"), layer(*inputs(), settings, "raster"), strict=True
    ):
        assert torch.allclose(found.double(), wanted.double(), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_synchronisation_and_same_choice_on_a_gpu(settings):
    wanted = layer(*inputs(), settings, "raster")
    given = inputs("cuda")
    layer(*given, settings, "raster")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = layer(*given, settings, "raster")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for got, want in zip(found, wanted, strict=True):
        assert torch.allclose(got.cpu().double(), want.double(), atol=1e-4)
