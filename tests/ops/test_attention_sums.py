"""Sums of attention over queries against loops over float64: heads that share keys, masks, padding, blocks of rows."""

from __future__ import annotations

import math

import pytest
import torch

from evoprune.ops import attention_sums as module
from evoprune.ops.attention_sums import attention_sums


def literal(query, key, scaling, weights, bias, reduce):
    """Return lists (B, G, Tk) from tensors; bias (B, Tq, Tk) is added to the logits."""
    query, key, bias = query.double().tolist(), key.double().tolist(), bias.double().tolist()
    out = []
    for b, groups in enumerate(weights.tolist()):
        share = len(query[b]) // len(key[b])
        maps = []
        for h, rows in enumerate(query[b]):
            maps.append([])
            for i, q in enumerate(rows):
                logits = [
                    scaling * sum(x * y for x, y in zip(q, k, strict=True)) + bias[b][i][j]
                    for j, k in enumerate(key[b][h // share])
                ]
                exps = [math.exp(v - max(logits)) if max(logits) > -math.inf else 0.0 for v in logits]
                maps[h].append([e / (sum(exps) or 1.0) for e in exps])
        level = [
            [
                max(m[i][j] for m in maps) if reduce == "max" else sum(m[i][j] for m in maps) / len(maps)
                for j in range(len(key[b][0]))
            ]
            for i in range(len(query[b][0]))
        ]
        out.append(
            [[sum(w * row[j] for w, row in zip(g, level, strict=True)) for j in range(len(level[0]))] for g in groups]
        )
    return torch.tensor(out, dtype=torch.float64)


def triangle(batch: int, queries: int, keys: int) -> torch.Tensor:
    """Return float (B, Tq, Tk), -inf where a key stands behind its query."""
    hidden = torch.arange(keys) > torch.arange(queries).unsqueeze(1) + keys - queries
    return torch.zeros(batch, queries, keys).masked_fill(hidden, -math.inf)


def drawn(seed: int, heads: int, key_heads: int, queries: int, keys: int, groups: int = 2):
    generator = torch.Generator().manual_seed(seed)
    query = 2 * torch.randn(2, heads, queries, 5, generator=generator)
    key = 2 * torch.randn(2, key_heads, keys, 5, generator=generator)
    weights = torch.rand(2, groups, queries, generator=generator)
    return query, key, weights * (torch.rand(2, 1, queries, generator=generator) > 0.3)


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(("queries", "keys", "groups"), [(7, 7, 2), (4, 9, 1), (1, 6, 3), (5, 3, 2)])
def test_causal(heads: int, key_heads: int, queries: int, keys: int, groups: int, reduce: str) -> None:
    query, key, weights = drawn(heads, heads, key_heads, queries, keys, groups)
    found = attention_sums(query, key, 0.4, weights, reduce=reduce)
    assert found.dtype == torch.float32 and found.shape == (2, groups, keys)
    wanted = literal(query, key, 0.4, weights, triangle(2, queries, keys), reduce)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (1, 1, 6, 8), (2, 1, 1, 8), (6, 8), (8,)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(shape: tuple[int, ...], kind: str) -> None:
    query, key, weights = drawn(3, 4, 2, 6, 8)
    generator = torch.Generator().manual_seed(4)
    free = torch.rand(shape, generator=generator) > 0.3
    bias = torch.zeros(shape).masked_fill(~free, -math.inf)
    if kind == "float":
        bias = bias + torch.randn(shape, generator=generator)
    full = bias.broadcast_to(2, 1, 6, 8)[:, 0]
    found = attention_sums(query, key, 0.4, weights, mask=free if kind == "bool" else bias)
    torch.testing.assert_close(found.double(), literal(query, key, 0.4, weights, full, "max"), rtol=1e-5, atol=1e-6)


def test_no_mask_at_all() -> None:
    query, key, weights = drawn(5, 4, 2, 6, 8)
    found = attention_sums(query, key, 0.4, weights, causal=False)
    wanted = literal(query, key, 0.4, weights, torch.zeros(2, 6, 8), "max")
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("low", [-math.inf, torch.finfo(torch.float32).min])
def test_left_padding_counts_for_nothing(low: float) -> None:
    """Columns of padding, whose own rows see nothing, hold garbage and weigh nothing: as if they were not there."""
    query, key, weights = drawn(6, 4, 2, 9, 9)
    query[:, :, :3], weights[:, :, :3] = float("nan"), 0.0
    mask = triangle(2, 9, 9).unsqueeze(1).clamp(min=low)
    mask[..., :3] = low
    found = attention_sums(query, key, 0.4, weights, mask=mask)
    alone = attention_sums(query[:, :, 3:], key[:, :, 3:], 0.4, weights[:, :, 3:])
    torch.testing.assert_close(found[..., 3:], alone)
    assert torch.equal(found[..., :3], torch.zeros(2, 2, 3))


def test_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, weights = drawn(7, 6, 3, 23, 31)
    mask = triangle(2, 23, 31).unsqueeze(1)
    whole = attention_sums(query, key, 0.4, weights), attention_sums(query, key, 0.4, weights, mask=mask.isfinite())
    for rows in (1, 4, 22):
        monkeypatch.setattr(module, "_CHUNK_CPU", rows * 2 * 6 * 31 // torch.get_num_threads())
        torch.testing.assert_close(attention_sums(query, key, 0.4, weights), whole[0])
        torch.testing.assert_close(attention_sums(query, key, 0.4, weights, mask=mask), whole[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sums_in_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    query, key, weights = drawn(8, 4, 2, 6, 8)
    query, key = query.to(dtype), key.to(dtype)
    mask = triangle(2, 6, 8).unsqueeze(1).to(dtype)
    found = attention_sums(query, key, 0.4, weights, mask=mask)
    assert found.dtype == torch.float32
    wanted = literal(query, key, 0.4, weights, triangle(2, 6, 8), "max")
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_query_counts_where_one_of_its_weights_does() -> None:
    query, key, weights = drawn(9, 2, 2, 5, 5)
    weights[:, 0], weights[:, 1] = 0.0, 1.0
    found = attention_sums(query, key, 0.4, weights)
    assert torch.equal(found[:, 0], torch.zeros(2, 5))
    torch.testing.assert_close(attention_sums(query, key, 0.4, weights[:, 1:]), found[:, 1:])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"query": torch.zeros(2, 5, 6, 5)}, "2 key heads do not divide 5 query heads"),
        ({"key": torch.zeros(2, 2, 8, 4)}, "do not fit: give"),
        ({"weights": torch.zeros(2, 6)}, r"weights \(2, 6\) do not fit"),
        ({"mask": torch.zeros(2, 4, 6, 8)}, r"mask \(2, 4, 6, 8\) does not fit"),
        ({"mask": torch.zeros(6, 9)}, r"broadcasts to \(2, 1, 6, 8\)"),
        ({"reduce": "sum"}, "give 'max' or 'mean'"),
    ],
)
def test_what_does_not_fit(changed: dict, words: str) -> None:
    query, key, weights = drawn(0, 4, 2, 6, 8)
    with pytest.raises(ValueError, match=words):
        attention_sums(**({"query": query, "key": key, "scaling": 1.0, "weights": weights} | changed))
