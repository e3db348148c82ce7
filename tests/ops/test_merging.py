"""`merge`, the order of survivors, and source maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evoprune import ops
from tests import reference

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "tome_matching.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})


@pytest.mark.parametrize("weights", ["size", "equal"])
@pytest.mark.parametrize("order", ["raster", "tome"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_loops(weights, order, dtype):
    torch.manual_seed(5)
    for length in (4, 9, 24):
        for r in (1, length // 4, length // 2):
            x, sizes = torch.randn(3, length, 5).to(dtype), torch.randint(1, 9, (3, length)).float()
            found = ops.match(x, torch.rand(3, length), r, critical_ratio=0.2)
            out, total = ops.merge(x, sizes, found, weights=weights, order=order)
            rows = ops.survivors(found, order)
            assert (out.dtype, total.dtype) == (dtype, torch.float32)
            for n in range(3):
                plain = [t[n].tolist() for t in (found.source, found.target, rows)]
                values, sums = reference.merged(x[n].double().tolist(), sizes[n].tolist(), *plain, weights=weights)
                tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
                assert torch.allclose(out[n].double(), torch.tensor(values).double(), atol=tolerance)
                assert total[n].tolist() == sums
                alone = [row not in plain[1] for row in plain[2]]
                assert torch.equal(out[n][alone], x[n][rows[n]][alone])  # same bits


def test_nothing_to_merge_returns_the_inputs():
    x, sizes = torch.randn(2, 6, 3), torch.ones(2, 6)
    found = ops.match(x, None, 0)
    for order in ("raster", "tome"):
        out, total = ops.merge(x, sizes, found, order=order)
        assert out is x
        assert total is sizes


def test_odd_values_survive_bit_by_bit():
    x = torch.randn(1, 12, 4)
    x[0, 1] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    found = ops.Matching(torch.tensor([[4]]), torch.tensor([[5]]), torch.tensor([[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]]))
    for sizes in (torch.ones(1, 12), torch.zeros(1, 12)):
        out, _ = ops.merge(x, sizes, found)
        assert torch.equal(out[0, 1].view(torch.int32), x[0, 1].view(torch.int32))


def test_order():
    found = ops.Matching(
        torch.tensor([[2, 0]]),
        torch.tensor([[3, 3]]),
        torch.tensor([[1, 3, 4, 5]]),
        torch.arange(6)[None] % 2 == 1,
    )
    assert ops.survivors(found).tolist() == [[1, 3, 4, 5]]
    assert ops.survivors(found, "tome").tolist() == [[4, 1, 3, 5]]
    start = ops.initial_sources(1, 6)
    assert ops.update_sources(start, found).tolist() == [[1, 0, 1, 1, 2, 3]]
    assert ops.update_sources(start, found, "tome").tolist() == [[2, 1, 2, 2, 0, 3]]
    with pytest.raises(ValueError, match="needs to know group b"):
        ops.survivors(found._replace(second=None), "tome")
    with pytest.raises(ValueError, match="did you mean 'raster'"):
        ops.merge(torch.rand(1, 6, 2), torch.ones(1, 6), found, order="rastr")
    with pytest.raises(ValueError, match="did you mean 'equal'"):
        ops.merge(torch.rand(1, 6, 2), torch.ones(1, 6), found, weights="equals")
    with pytest.raises(ValueError, match="do not fit a matching"):
        ops.merge(torch.rand(1, 7, 2), torch.ones(1, 7), found)
    with pytest.raises(ValueError, match="sizes have shape"):
        ops.merge(torch.rand(1, 6, 2), torch.ones(1, 5), found)


@pytest.mark.parametrize("order", ["raster", "tome"])
def test_source_maps_through_many_merges(order):
    """A survivor's value is the mean, and its size the number, of the patches whose source map points at it."""
    torch.manual_seed(6)
    patches = torch.randn(2, 60, 4)
    x, sizes, sources = patches, torch.ones(2, 60), ops.initial_sources(2, 60)
    for r in (20, 0, 15, 12, 6):
        found = ops.match(x, torch.rand(x.shape[:2]), r)
        sources = ops.update_sources(sources, found, order)
        x, sizes = ops.merge(x, sizes, found, order=order)
    assert x.shape[1] == 7
    for n in range(2):
        for row in range(7):
            mine = sources[n] == row
            assert mine.sum() == sizes[n, row]
            assert torch.allclose(patches[n, mine].mean(0), x[n, row], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_and_exact(dtype):
    torch.manual_seed(7)
    x = torch.randn(2, 16, 4, dtype=dtype, requires_grad=True)
    sizes = torch.randint(1, 5, (2, 16)).float()
    out, total = ops.merge(x, sizes, ops.match(x, torch.rand(2, 16), 7))
    (out.float() * total.unsqueeze(-1)).sum().backward()  # the sum over all patches: each token counts by its size
    wanted = sizes.unsqueeze(-1).expand(2, 16, 4)
    assert torch.allclose(x.grad.float(), wanted, rtol=1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("name", CASES)
def test_official_tome_outputs(name):
    """Without density and protection, on keys, this is ToMe; its survivors of group a come in another order."""

    def load(key):
        return torch.from_numpy(GOLDEN[f"{name}/{key}"])

    x, r = load("x"), int(GOLDEN[f"{name}/r"])
    sizes = load("size_in")[..., 0] if f"{name}/size_in" in GOLDEN.files else torch.ones(x.shape[:2])
    found = ops.match(load("metric"), None, r, diversity=0.0, partition="index")
    if r:
        assert torch.equal(found.source, 2 * load("src_idx"))
        assert torch.equal(found.target, 2 * load("dst_idx") + 1)
    out, total = ops.merge(x, sizes, found, order="tome")
    sources = ops.update_sources(ops.initial_sources(*x.shape[:2]), found, "tome")
    for n in range(len(x)):
        official = load("source_out")[n].bool()
        ours = sources[n][None] == torch.arange(out.shape[1])[:, None]
        place = [int((official == row).all(1).nonzero()[0, 0]) for row in ours]
        assert sorted(place) == list(range(out.shape[1]))
        tail = x.shape[1] // 2 if r else out.shape[1]
        assert place[-tail:] == list(range(out.shape[1]))[-tail:]  # group b is in place
        assert torch.allclose(out[n], load("x_out")[n][place], atol=2e-5, rtol=2e-5)
        assert torch.allclose(total[n], load("size_out")[n][place, 0])
