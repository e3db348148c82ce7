"""Cosines and distinctiveness."""

from __future__ import annotations

import math

import pytest
import torch

from evoprune import ops
from evoprune.ops.density import cosines_between


def distinct(tokens, **settings):
    return ops.distinctiveness(ops.cosines(tokens), **settings)


def test_against_loops():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 4)
    cos = torch.nn.functional.cosine_similarity(x[0, :, None].double(), x[0, None].double(), dim=-1)
    rows = [sorted(max(0.0, 2 - 2 * cos[i, k].item()) for k in range(9) if k != i)[:5] for i in range(9)]
    square = sum(map(sum, rows)) / 45
    for bandwidth, scale in ((None, square), (0.5, 0.25)):
        wanted = [1 - sum(math.exp(-v / scale) for v in row) / 5 for row in rows]
        assert torch.allclose(distinct(x, bandwidth=bandwidth)[0].double(), torch.tensor(wanted).double(), atol=1e-6)


@pytest.mark.parametrize("length", [10, 250])  # whole product, and in strips
def test_cosines(length):
    torch.manual_seed(1)
    x = torch.randn(2, length, 6)
    x[0, 3] = 0
    wanted = torch.nn.functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1)
    assert torch.allclose(ops.cosines(x), wanted, atol=1e-6)
    assert ops.cosines(x)[0, 3].abs().max() == 0
    assert torch.equal(ops.cosines(x), ops.cosines(x).transpose(1, 2))


def test_cosines_between_are_those_of_all_pairs():
    torch.manual_seed(1)
    x = torch.randn(2, 12, 6)
    x[0, 3] = 0
    whole = ops.cosines(x)
    assert torch.allclose(cosines_between(x, slice(0, None, 2), slice(1, None, 2)), whole[:, 0::2, 1::2], atol=1e-6)
    first, second = torch.tensor([[0, 3], [5, 1]]), torch.tensor([[3, 7, 2], [4, 6, 8]])
    for image in range(2):
        wanted = whole[image][first[image]][:, second[image]]
        assert torch.allclose(cosines_between(x, first, second)[image], wanted, atol=1e-6)


def test_scale_of_the_tokens_does_not_matter():
    torch.manual_seed(2)
    x = torch.randn(1, 20, 8)
    assert torch.allclose(distinct(x), distinct(x * torch.rand(1, 20, 1) * 1e4), atol=1e-5)


@pytest.mark.parametrize("width", [3, 64, 1152])
def test_equal_tokens_are_not_distinct(width):
    torch.manual_seed(3)
    x = torch.randn(1, 1, width).expand(1, 300, width)
    assert distinct(x).abs().max() == 0
    assert distinct(x, bandwidth=1e-4).abs().max() == 0


def test_more_neighbors_than_tokens_and_lone_tokens():
    torch.manual_seed(4)
    x = torch.randn(1, 4, 8)
    assert torch.equal(distinct(x, neighbors=3), distinct(x, neighbors=50))
    assert distinct(x[:, :1]).tolist() == [[0.0]]
    absent = torch.tensor([[False, False, True, True]])
    assert torch.allclose(distinct(x, protected=absent)[:, :2], distinct(x[:, :2]), atol=1e-6)
    absent = torch.tensor([[False, True, True, True]])
    assert distinct(x, protected=absent).tolist() == [[0.0] * 4]
