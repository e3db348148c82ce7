"""The attention torch would run, and the log-sum-exp it leaves."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from evoprune import ops
from evoprune.ops.fused import fused_attention

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]


def case(heads=4, key_heads=4, tokens=37, width=72, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    shapes = [(2, tokens, heads, width), (2, tokens, key_heads, width), (2, tokens, key_heads, width)]
    return [torch.randn(shape).to(device, dtype).transpose(1, 2) for shape in shapes]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_without_a_gpu_it_is_scaled_dot_product_attention(key_heads, biased):
    q, k, v = case(key_heads=key_heads)
    bias = torch.randn(2, 37) if biased else None
    output, sums = fused_attention(q, k, v, 0.3, bias)
    mask = None if bias is None else bias[:, None, None]
    assert torch.equal(output, scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=key_heads < 4))
    assert sums is None


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_backend_leaves_the_sums_of_its_rows(backend, dtype):
    for tokens, width in ((577, 64), (729, 72), (130, 128)):
        for biased in (False, True):
            check(backend, dtype, tokens, width, biased)


def check(backend, dtype, tokens, width, biased):
    q, k, v = case(16, 16, tokens, width, "cuda", dtype)
    bias = torch.randn(2, tokens, device="cuda") if biased else None
    mask = None if bias is None else bias[:, None, None].to(dtype)
    with sdpa_kernel([backend, SDPBackend.MATH]):
        output, sums = fused_attention(q, k, v, width**-0.5, bias)
        wanted = scaled_dot_product_attention(q, k, v, mask, scale=width**-0.5)
        found, received = ops.attend(q, k, v, width**-0.5, key_bias=bias)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output, wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    logits = q.double() @ k.double().transpose(2, 3) * width**-0.5
    if mask is not None:
        logits = logits + mask.double()
    if sums is not None:
        torch.testing.assert_close(sums.double(), logits.logsumexp(-1), atol=tolerance, rtol=tolerance)
    mean = logits.softmax(-1).mean((1, 2))
    torch.testing.assert_close(received.double(), mean, atol=tolerance * mean.max().item(), rtol=tolerance)
