"""The kernels under Triton's interpreter. `test_interpreted.py` runs it: that choice comes before any import."""

from __future__ import annotations

import pytest
import torch

from evoprune import ops
from evoprune.ops import kernels
from evoprune.ops.kernels import density, merging, order, pairs, scores
from tests.ops.kernels import checks

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (F32, {"queries": 16, "width": 64}),
        (F32, {"queries": 33, "width": 72, "lse": True}),
        (BF16, {"queries": 17, "width": 72, "heads": 3}),
        (BF16, {"queries": 70, "keys": 131, "width": 72, "heads": 4, "key_heads": 2, "lse": True}),
        (BF16, {"queries": 131, "keys": 20, "width": 96, "transposed": False}),
        (F16, {"queries": 65, "width": 128, "lse": True, "mask": True}),
        (F16, {"queries": 40, "width": 80, "bias": True, "mask": True}),
        (BF16, {"queries": 24, "width": 8, "bias": "all"}),
        (F32, {"queries": 19, "width": 20, "heads": 4, "key_heads": 1, "bias": True, "lse": True}),
        (F32, {"queries": 1, "keys": 50, "width": 24}),
    ],
    ids=str,
)
def test_received(dtype, shape):
    checks.received("cpu", dtype, **shape)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (F32, {"length": 16, "width": 32}),
        (F32, {"length": 97, "width": 48, "strided": True}),
        (BF16, {"length": 5, "neighbors": 8}),
        (BF16, {"length": 131, "width": 72, "neighbors": 5}),
        (BF16, {"length": 64, "width": 33, "neighbors": 1}),
        (F16, {"length": 65, "width": 130, "neighbors": 3}),
        (F32, {"length": 40, "width": 20, "neighbors": 20}),
    ],
    ids=str,
)
def test_neighbours(dtype, shape):
    checks.neighbours("cpu", dtype, **shape)


def test_neighbours_in_wide_tiles(monkeypatch):
    monkeypatch.setattr(density, "_SMS", 0)
    assert density._tiles(1, 250, BF16)[0] == 128
    checks.neighbours("cpu", BF16, length=250, width=64)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (F32, {}),
        (F32, {"similarity": "softmax", "givers": 33, "takers": 70}),
        (F32, {"similarity": "sigmoid", "weighted": False}),
        (BF16, {"givers": 40, "takers": 150, "width": 72}),
        (BF16, {"sliced": True, "similarity": "softmax"}),
        (F16, {"givers": 5, "takers": 1, "barred": "none", "width": 130}),
        (F16, {"weighted": False, "barred": "none", "similarity": "sigmoid"}),
        (BF16, {"barred": "all"}),
        (BF16, {"barred": "all", "similarity": "softmax"}),
    ],
    ids=str,
)
def test_partners(dtype, shape):
    checks.partners("cpu", dtype, **shape)


def test_partners_in_wide_tiles(monkeypatch):
    monkeypatch.setattr(scores, "_SMS", 0)
    assert scores._blocks(1, 70, 140, BF16)[:2] == (64, 64)
    checks.partners("cpu", BF16, batch=1, givers=70, takers=140, width=64)
    assert scores._blocks(1, 70, 120, BF16)[:2] == (64, 128)
    checks.partners("cpu", BF16, batch=1, givers=70, takers=120, width=64)


def test_partners_of_weight_nothing_are_the_first():
    tokens = checks.crowd(1, 12, 32)
    index = torch.arange(12)[None]
    barred = torch.tensor([[True, False, False, False, False, False]])
    best, choice = scores.best_partners(
        tokens, density.norms(tokens), torch.zeros(1, 12), index[:, 0::2], index[:, 1::2], barred, "cosine"
    )
    assert (best == 0).all() and (choice == 1).all()


def test_partners_of_broken_tokens_are_in_range():
    tokens = torch.full((1, 12, 32), float("nan"))
    index = torch.arange(12)[None]
    barred = torch.zeros(1, 6, dtype=torch.bool)
    _, choice = scores.best_partners(
        tokens, density.norms(tokens), None, index[:, 0::2], index[:, 1::2], barred, "cosine"
    )
    assert ((choice >= 0) & (choice < 6)).all()


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (F32, {}),
        (F32, {"equal": True, "order": "tome"}),
        (F32, {"length": 16, "merges": 1, "width": 33, "strided": True}),
        (BF16, {"order": "tome"}),
        (BF16, {"equal": True, "length": 22, "merges": 11, "width": 72, "batch": 2}),
        (F16, {"length": 9, "merges": 4, "width": 130}),
        (BF16, {"length": 2, "merges": 1, "width": 8}),
    ],
    ids=str,
)
def test_merging(dtype, shape):
    checks.merging("cpu", dtype, **shape)


def test_merging_looks_at_few_pairs_at_a_time(monkeypatch):
    monkeypatch.setattr(merging, "_SCAN", 4)
    checks.merging("cpu", F32, batch=1, length=26, merges=11, width=16)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"partition": "index", "critical_ratio": 0.5},
        {"similarity": "sigmoid"},
        {"diversity": 0.0},
    ],
    ids=str,
)
def test_matching(dtype, settings):
    checks.matching("cpu", dtype, **settings)


@pytest.mark.parametrize("shape", [{}, {"bandwidth": 0.5}, {"length": 520, "neighbors": 3, "diversity": 2.0}], ids=str)
def test_weighing(shape):
    checks.weighing("cpu", **shape)


@pytest.mark.parametrize("kind", ["normal", "equal", "broken"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"size": 0, "length": 16},
        {"partition": "index", "size": 20, "length": 70},
        {"length": 67, "merges": 30, "size": 7},
        {"length": 2, "merges": 1, "size": 0},
    ],
    ids=str,
)
def test_ordering(shape, kind):
    checks.ordering("cpu", kind=kind, **shape)


def test_ordering_in_several_steps(monkeypatch):
    monkeypatch.setattr(order, "_CHUNK", 16)
    monkeypatch.setattr(order, "_WALK", 16)
    checks.ordering("cpu", length=51, merges=9)


def test_the_functions_of_ops_take_the_kernels(monkeypatch):
    taken = []

    def attempt(name, *args, **kwargs):
        taken.append(name)
        return run(name, *args, **kwargs)

    run = kernels.attempt
    for module in (kernels, pairs):
        monkeypatch.setattr(module, "attempt", attempt)
    query, key, value = (checks.normal(2, 2, 33, 16, seed=seed) for seed in range(3))
    tokens, sizes = checks.crowd(2, 33, 48), torch.ones(2, 33)

    def layer():
        output, received = ops.attend(query, key, value, 0.25)
        found = ops.match(tokens, ops.received_attention(query, key, 0.25), 8)
        return output, received, *found, *ops.merge(tokens, sizes, found)

    got = layer()
    assert list(dict.fromkeys(taken)) == ["received", "order", "density", "scores", "merging"]
    with kernels.reference_path():
        wanted = layer()
    assert taken.count("received") == 2
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mistake", [{"neighbors": 0}, {"bandwidth": 0.0}, {"bandwidth": -1.0}], ids=str)
def test_mistakes_are_refused_before_any_kernel(mistake):
    with pytest.raises(ValueError, match="give"):
        ops.match(checks.crowd(1, 20, 16), None, 3, **mistake)
    assert set(kernels.status().values()) == {"interpreted"}


def test_many_neighbours():
    checks.weighing("cpu", neighbors=40)
