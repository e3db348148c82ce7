"""Attention received, against loops and against the whole matrix."""

from __future__ import annotations

import pytest
import torch

from evoprune import ops
from evoprune.ops import attention_pass as attention
from tests import reference


def case(heads=4, key_heads=4, queries=7, keys=9, width=5, batch=2, dtype=torch.float32):
    torch.manual_seed(heads * keys + queries)
    shapes = [
        (batch, heads, queries, width),
        (batch, key_heads, keys, width),
        (batch, key_heads, keys, width),
    ]
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_loops(key_heads, dtype):
    q, k, _ = case(key_heads=key_heads, dtype=dtype)
    bias = torch.randn(2, 9)
    bias[0, 3] = float("-inf")
    mask = torch.rand(2, 7) > 0.4
    mask[:, 0] = True
    for options in ({}, {"key_bias": bias}, {"query_mask": mask}, {"key_bias": bias, "query_mask": mask}):
        found = ops.received_attention(q, k, 0.4, **options)
        assert found.dtype == torch.float32
        assert torch.allclose(found.sum(-1), torch.ones(2), atol=1e-5)
        for row in range(2):
            given = [options[name][row].tolist() if name in options else None for name in ("key_bias", "query_mask")]
            wanted = reference.received(q[row].double().tolist(), k[row].double().tolist(), 0.4, *given)
            assert torch.allclose(found[row].double(), torch.tensor(wanted, dtype=torch.float64), atol=1e-6)


def test_any_chunk_gives_the_same(monkeypatch):
    q, k, v = case(heads=6, key_heads=3, batch=3)
    whole = ops.attend(q, k, v[:, :3], 0.4)
    monkeypatch.setattr(attention, "_CHUNK_CPU", 1)
    for found, wanted in zip(ops.attend(q, k, v[:, :3], 0.4), whole, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_equals_scaled_dot_product_attention(key_heads, dtype):
    q, k, v = case(key_heads=key_heads, dtype=dtype)
    bias = torch.randn(2, 9)
    output, received = ops.attend(q, k, v, 0.4, key_bias=bias)
    wide = [t.float() for t in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *wide, attn_mask=bias[:, None, None], scale=0.4, enable_gqa=True
    )
    assert output.dtype == dtype
    assert torch.allclose(output.float(), wanted, atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert torch.equal(received, ops.received_attention(q, k, 0.4, key_bias=bias))


def test_four_dimensional_bias():
    q, k, _ = case()
    bias = torch.randn(2, 4, 7, 9)
    wanted = torch.softmax(q @ k.transpose(-1, -2) * 0.4 + bias, -1).mean((1, 2))
    assert torch.allclose(ops.received_attention(q, k, 0.4, key_bias=bias), wanted, atol=1e-6)
    row = torch.randn(2, 1, 1, 9)
    wanted = torch.softmax(q @ k.transpose(-1, -2) * 0.4 + row, -1).mean((1, 2))
    assert torch.allclose(ops.received_attention(q, k, 0.4, key_bias=row), wanted, atol=1e-6)


def test_padded_rows_and_large_logits_are_finite():
    q, k, _ = case()
    bias = torch.zeros(2, 9)
    bias[1] = float("-inf")
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1] = False
    found = ops.received_attention(q * 1e4, k * 1e4, 1.0, key_bias=bias, query_mask=mask)
    assert torch.isfinite(found).all()
    assert found[1].abs().max() == 0


def test_autocast_and_gradients_stay_out():
    q, k, _ = (t.requires_grad_() for t in case())
    wanted = ops.received_attention(q, k, 0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ops.received_attention(q, k, 0.4)
    assert not found.requires_grad
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": torch.rand(2, 3, 9, 5)}, "do not divide"),
        ({"key": torch.rand(2, 4, 9, 6)}, "do not fit"),
        ({"key_bias": torch.rand(2, 7)}, "key_bias"),
        ({"query_mask": torch.rand(2, 9) > 0}, "query_mask"),
    ],
)
def test_refuses_shapes_that_do_not_fit(change, words):
    q, k, _ = case()
    with pytest.raises(ValueError, match=words):
        ops.received_attention(**{"query": q, "key": k, "scaling": 1.0} | change)
