"""FastV: what it keeps, against loops, and where it lets tokens go."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.pruners import DecoderView, FastV
from evoprune.pruners.fastv import conformance


def literal(attention: list[list[list[float]]], start: int, tokens: int, keep: int) -> list[int]:
    """Return what stays of a block by loops over the heads' whole matrices [head][query][key]."""
    score = [sum(head[-1][start + v] for head in attention) / len(attention) for v in range(tokens)]
    return sorted(sorted(range(tokens), key=lambda v: (-score[v], v))[:keep])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 6), st.integers(1, 6), st.integers(1, 5), st.data())
def test_equals_loops(seed: int, tokens: int, start: int, text: int, heads: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, tokens))
    generator = torch.Generator().manual_seed(seed)
    length = start + tokens + text
    attention = torch.randn(3, heads, length, length, generator=generator).softmax(-1)
    view = DecoderView(attention=attention[:, :, -1, start : start + tokens].mean(1))
    kept = FastV(keep).select(view, keep)
    assert kept.shape == (3, keep) and kept.dtype == torch.int64
    for one in range(3):
        assert kept[one].tolist() == literal(attention[one].double().tolist(), start, tokens, keep)
        alone = DecoderView(attention=view.attention[one : one + 1])
        assert torch.equal(FastV(keep).select(alone, keep)[0], kept[one])


def test_lower_indices_win_ties() -> None:
    view = DecoderView(attention=torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.1, 0.0]]).repeat(2, 1))
    assert FastV(4).select(view, 4).tolist() == [[0, 1, 2, 3]] * 2
    assert FastV(3).select(DecoderView(attention=torch.zeros(1, 9)), 3).tolist() == [[0, 1, 2]]
    assert FastV(6).select(view, 6).tolist() == [list(range(6))] * 2


def test_the_kept_follow_a_permutation() -> None:
    torch.manual_seed(0)
    attention, order = torch.rand(2, 30), torch.randperm(30)
    kept = FastV(7).select(DecoderView(attention=attention), 7)
    moved = FastV(7).select(DecoderView(attention=attention[:, order]), 7)
    assert torch.equal(order[moved].sort(dim=1).values, kept)
    more = FastV(8).select(DecoderView(attention=attention), 8)
    assert all(set(a) < set(b) for a, b in zip(kept.tolist(), more.tolist(), strict=True))


def test_where_tokens_go() -> None:
    assert FastV(64).layer == 2 and FastV(64).needs == {"attention"} and not FastV.inside
    assert FastV(64).leaves(576, 5) == (576, 64, 64, 64, 64)
    assert FastV(64, layer=1).leaves(576, 3) == (64, 64, 64)
    assert FastV(0.5, layer=4).leaves(9, 5) == (9, 9, 9, 5, 5)  # half up, as everywhere
    assert FastV(9).leaves(9, 4) == (9,) * 4


@pytest.mark.parametrize(("layer", "layers"), [(2, 2), (5, 4), (3, 3), (1, 1)])
def test_layers_that_there_are_not(layer: int, layers: int) -> None:
    with pytest.raises(ValueError, match=rf"layer={layer} .*the language model has {layers} layers"):
        FastV(4, layer=layer).leaves(9, layers)


@pytest.mark.parametrize("layer", [0, -1, 1.5, True, "2", math.nan])
def test_settings_that_mean_nothing(layer: Any) -> None:
    with pytest.raises(ValueError, match="layer="):
        FastV(4, layer=layer)


def test_what_is_missing() -> None:
    with pytest.raises(ValueError, match="has no attention"):
        FastV(4).select(DecoderView(), 4)
    with pytest.raises(ValueError, match="keep=10"):
        FastV(10).leaves(9, 4)


@pytest.mark.parametrize(("batch", "heads", "start", "tokens", "text"), [(1, 1, 0, 11, 1), (3, 5, 9, 27, 4)])
def test_conformance_takes_any_form(batch: int, heads: int, start: int, tokens: int, text: int) -> None:
    """Sizes that the files of `tests/golden` do not have: every key, and that the first row ranks for all."""
    torch.manual_seed(tokens)
    length = start + tokens + text
    x = {"attn": torch.rand(batch, heads, length, length).softmax(-1), "hidden": torch.randn(batch, length, 6)}
    sizes = {"sys_length": start, "image_token_length": tokens, "K": 3}
    for about in ({"variant": "mask", "attention_rank": 5}, {"variant": "hf", "fastv_r": 0.5}, {"fastv_r": 0.3}):
        share = Fraction(tokens) * (1 - Fraction(about.get("fastv_r", 0)).limit_denominator(100))
        keep = about.get("attention_rank", round(share))
        found = conformance(x, {**sizes, **about})
        kept = literal(x["attn"][0].tolist(), start, tokens, int(keep))
        stays = [*range(start), *(start + v for v in kept), *range(start + tokens, length)]
        assert found["kept_image"].tolist() == kept
        assert found["keep_indices"].tolist() == stays and found["position_ids"].tolist() == [stays]
        assert torch.equal(found["hidden_kept"], x["hidden"][:, stays])
        assert [row.nonzero().flatten().tolist() for row in found["token_mask"]] == [stays] * batch
