"""The kernels at the sizes of real towers, on a CUDA device."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs the package triton")
from evoprune import ops
from evoprune.ops import kernels
from evoprune.ops.kernels.probe import probe
from tests.ops.kernels import checks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str),
]


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 4, "heads": 16, "queries": 729, "width": 72, "lse": True},
        {"batch": 4, "heads": 16, "queries": 729, "width": 72},
        {"batch": 1, "heads": 16, "queries": 577, "width": 64},
        {"batch": 2, "heads": 16, "queries": 115, "width": 72, "bias": True, "mask": True},
        {"batch": 1, "heads": 4, "queries": 4096, "width": 80},
        {"batch": 2, "heads": 8, "key_heads": 2, "queries": 1025, "width": 128, "lse": True},
        {"batch": 1, "heads": 16, "queries": 1, "keys": 577, "width": 64},
        {"batch": 64, "heads": 16, "queries": 16, "width": 72},
        {"batch": 2, "heads": 3, "queries": 200, "width": 96, "transposed": False, "bias": "all"},
    ],
    ids=str,
)
def test_received(dtype, shape):
    checks.received("cuda", dtype, **shape)


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 16, "length": 729, "width": 1152},
        {"batch": 1, "length": 576, "width": 1024, "strided": True},
        {"batch": 1, "length": 4096, "width": 1280},
        {"batch": 64, "length": 115, "width": 1152},
        {"batch": 3, "length": 16, "width": 768, "neighbors": 15},
        {"batch": 2, "length": 301, "width": 100, "neighbors": 16},
        {"batch": 2, "length": 301, "width": 97, "neighbors": 30},
    ],
    ids=str,
)
def test_neighbours(dtype, shape):
    checks.neighbours("cuda", dtype, **shape)


@pytest.mark.parametrize("similarity", ["cosine", "sigmoid", "softmax"])
@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 40, "givers": 274, "takers": 273, "width": 1152},
        {"batch": 1, "givers": 288, "takers": 288, "width": 1024, "sliced": True},
        {"batch": 1, "givers": 2048, "takers": 2047, "width": 768, "barred": "none"},
        {"batch": 2, "givers": 8, "takers": 7, "width": 100, "weighted": False},
    ],
    ids=str,
)
def test_partners(dtype, shape, similarity):
    checks.partners("cuda", dtype, similarity=similarity, **shape)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 16, "length": 729, "merges": 51, "width": 1152},
        {"batch": 1, "length": 4096, "merges": 2048, "width": 1280, "order": "tome"},
        {"batch": 3, "length": 33, "merges": 16, "width": 100, "strided": True},
    ],
    ids=str,
)
def test_merging(dtype, shape, equal):
    checks.merging("cuda", dtype, equal=equal, **shape)


@pytest.mark.parametrize("bandwidth", [None, 0.5])
@pytest.mark.parametrize("kind", ["normal", "equal", "broken"])
def test_weighing_and_ordering(dtype, kind, bandwidth):
    checks.weighing("cuda", length=729, bandwidth=bandwidth)
    checks.ordering("cuda", batch=4, length=729, merges=51, size=182, kind=kind)
    checks.ordering("cuda", batch=1, length=4096, merges=2000, size=1000, partition="index", kind=kind)


@pytest.mark.parametrize(
    "settings", [{}, {"partition": "index"}, {"similarity": "sigmoid"}, {"diversity": 0.0}], ids=str
)
@pytest.mark.parametrize(("batch", "length", "width", "merges"), [(16, 729, 1152, 52), (1, 576, 1024, 40)])
def test_matching(dtype, batch, length, width, merges, settings):
    checks.matching("cuda", dtype, batch=batch, length=length, width=width, merges=merges, **settings)


def layer(query, key, tokens, sizes):
    importance = ops.received_attention(query, key, 0.2)
    found = ops.match(tokens, importance, 9)
    return (*ops.merge(tokens, sizes, found), found.source)


def inputs(dtype):
    query, key = (checks.normal(2, 100, 4, 72, seed=s).to("cuda", dtype).transpose(1, 2) for s in (0, 1))
    return query, key, checks.crowd(2, 100, 256).to("cuda", dtype), torch.ones(2, 100, device="cuda")


@torch.no_grad()
def test_compiles_into_one_graph(dtype):
    torch._dynamo.reset()
    wanted = layer(*inputs(dtype))
    assert all("failed" not in state for state in kernels.status().values())
    found = torch.compile(layer, fullgraph=True)(*inputs(dtype))
    assert all(torch.equal(got, want) for got, want in zip(found, wanted, strict=True))


@torch.no_grad()
def test_captured_in_a_cuda_graph(dtype):
    given = inputs(dtype)
    wanted = layer(*given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer(*given)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(got, want) for got, want in zip(found, wanted, strict=True))


def test_every_kernel_is_ready(dtype):
    probe(torch.device("cuda"))
    assert set(kernels.status().values()) == {"ready"}
