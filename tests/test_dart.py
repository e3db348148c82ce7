"""DART: what it keeps, against loops, its counts, and pictures with little text behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from evoprune.pruners import DART, DecoderView
from evoprune.pruners.dart import chosen_pivots, conformance, least_duplicated, official

MANIFEST = json.loads((Path(__file__).parent / "golden" / "dart.json").read_text())
Rows = Sequence[Sequence[float]]


def cosine(x: Sequence[float], y: Sequence[float]) -> float:
    length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(p * q for p, q in zip(x, y, strict=True)) / length if length else 0.0


def strongest(keys: Rows, count: int) -> tuple[list[int], float]:
    """Return the tokens with the largest L1 norms, and the smallest gap between two norms."""
    norms = [sum(abs(v) for v in key) for key in keys]
    order = sorted(range(len(keys)), key=lambda i: (-norms[i], i))
    return order[:count], min((norms[a] - norms[b] for a, b in pairwise(order)), default=math.inf)


def literal(
    hidden: Rows, keys: Rows, text_hidden: Rows, text_keys: Rows, keep: int, own: int, steering: int,
    order: Sequence[int] | None = None,
) -> tuple[list[int], float]:  # fmt: skip
    """Return what stays of one block by loops over float64, and the smallest gap between two choices."""
    image, gap = strongest(keys, own)
    text, other = strongest(text_keys, steering)
    gap = min(gap, other)
    visited = [hidden[i] for i in image] + [text_hidden[i] for i in text]
    visited = visited if order is None else [visited[i] for i in order]
    left, kept = [i for i in range(len(hidden)) if i not in image], list(image)
    for number, pivot in enumerate(visited):
        quota = (keep - len(image)) // len(visited) + (number < (keep - len(image)) % len(visited))
        near = {i: cosine(pivot, hidden[i]) for i in left}
        ranked = sorted(left, key=lambda i: (near[i], i))
        if 0 < quota < len(ranked):
            gap = min(gap, near[ranked[quota]] - near[ranked[quota - 1]])
        kept += ranked[:quota]
        left = ranked[quota:]
    return sorted(kept), gap


def view(seed: int, blocks: int, tokens: int, text: int, width: int = 6, key: int = 8) -> DecoderView:
    """Return random states and keys; the blocks have text of differing lengths, the first of them all of it."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(blocks, text, generator=generator) < 0.6
    mask[0] = True
    return DecoderView(
        hidden=torch.randn(blocks, tokens, width, generator=generator),
        keys=torch.randn(blocks, tokens, key, generator=generator),
        text_hidden=torch.randn(blocks, text, width, generator=generator),
        text_keys=torch.randn(blocks, text, key, generator=generator),
        text_mask=mask,
    )


def one_of(x: DecoderView, g: int) -> DecoderView:
    """Return one block alone, without the text that it does not have."""
    there = x.text_mask[g]
    return DecoderView(
        hidden=x.hidden[g : g + 1], keys=x.keys[g : g + 1], text_mask=torch.ones(1, int(there.sum()), dtype=torch.bool),
        text_hidden=x.text_hidden[g : g + 1, there], text_keys=x.text_keys[g : g + 1, there],
    )  # fmt: skip


def loops(x: DecoderView, g: int, keep: int, own: int, steering: int, order: Any = None) -> tuple[list[int], float]:
    alone = one_of(x, g)
    parts = (alone.hidden, alone.keys, alone.text_hidden, alone.text_keys)
    return literal(*(part[0].double().tolist() for part in parts), keep, own, steering, order)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 40), st.integers(0, 9), st.integers(1, 6), st.integers(0, 6), st.data()
)  # fmt: skip
def test_equals_loops_also_with_little_text(
    seed: int, tokens: int, text: int, own: int, steering: int, data: st.DataObject
) -> None:
    own = min(own, tokens)
    keep = data.draw(st.integers(own, tokens))
    x = view(seed, 3, tokens, text)
    pruner = DART(keep, image_pivots=own, text_pivots=steering)
    kept = pruner.select(x, keep)
    assert kept.shape == (3, keep) and kept.dtype == torch.int64
    for g in range(3):
        wanted, gap = loops(x, g, keep, own, steering)
        if gap > 1e-5:
            assert kept[g].tolist() == wanted
            assert torch.equal(pruner.select(one_of(x, g), keep)[0], kept[g])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(7)), st.integers(3, 30))
def test_any_order_of_the_visits(seed: int, order: list[int], keep: int) -> None:
    x = replace(view(seed, 2, 30, 5), text_mask=torch.ones(2, 5, dtype=torch.bool))
    image, text = chosen_pivots(x, 3, 4)
    kept = least_duplicated(x, image, text, keep, order)
    for g in range(2):
        wanted, gap = loops(x, g, keep, 3, 4, order)
        if gap > 1e-5:
            assert kept[g].tolist() == wanted


def test_the_order_of_the_visits_matters() -> None:
    """Each pivot takes what is left: backwards, another set stays, of the same count."""
    x = replace(view(3, 4, 60, 8), text_mask=None)
    image, text = chosen_pivots(x, 4, 4)
    forth, back = (least_duplicated(x, image, text, 28, order) for order in (range(8), range(7, -1, -1)))
    assert forth.shape == back.shape and not torch.equal(forth, back)
    assert torch.equal(forth, DART(28).select(x, 28))


@pytest.mark.parametrize("pivots", [(4, 4), (1, 0), (2, 3), (5, 1)])
def test_exact_counts_for_every_keep(pivots: tuple[int, int]) -> None:
    own, steering = pivots
    for tokens in (1, 4, 5, 12, 13, 31):
        x = view(tokens, 2, tokens, 6)
        for keep in range(min(own, tokens), tokens + 1):
            pruner = DART(keep, image_pivots=own, text_pivots=steering)
            assert pruner.tokens_after(tokens) == keep and pruner.leaves(tokens, 4) == (tokens, keep, keep, keep)
            kept = pruner.select(x, keep)
            assert kept.shape == (2, keep)
            assert bool((kept.diff(dim=1) > 0).all()) and int(kept.min()) >= 0 and int(kept.max()) < tokens
            image, _ = chosen_pivots(x, min(own, keep), steering)
            assert all(set(a) <= set(b) for a, b in zip(image.tolist(), kept.tolist(), strict=True))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 700), st.integers(1, 9), st.integers(0, 9), st.data())
def test_official_counts_never_exceed_what_there_is(n: int, own: int, steering: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(min(own, n), n))
    pruner = DART(keep, image_pivots=own, text_pivots=steering, counts="official")
    left, asked = pruner.tokens_after(n), own + (own + steering) * (keep // (own + steering))
    assert left == min(n, asked)
    assert keep - steering < asked <= keep + own
    if n <= 40:
        assert pruner.select(view(n, 2, n, 5), left).shape == (2, left)


def test_official_counts_of_dart() -> None:
    table = MANIFEST["count_table"]
    assert table
    for one in table:
        own, steering = (int(number) for number in one["pivots"].split("+"))
        tokens = one["image_tokens"]
        about = {
            "variant": one["variant"], "image_token_start_index": 3, "image_tokens": tokens,
            "pivot_image_token": own, "pivot_text_token": steering,
        }  # fmt: skip
        if "max_num_trunction" in one:
            about["budget"] = one["max_num_trunction"]
            assert official(about["budget"], own, steering) == one["retained_image_tokens"]
        else:
            about["reduction_ratio"] = one["reduction_ratio"]
        length = 3 + tokens + 6
        found = conformance({"hidden": torch.randn(1, length, 4), "keys": torch.randn(1, 2, length, 2)}, about)
        assert len(found["retained"]) == one["retained_image_tokens"] == own + (own + steering) * one["per_pivot"]


def test_every_case_has_the_official_count_per_pivot() -> None:
    for case in MANIFEST["cases"]:
        about, shape = case["hyper_parameters"], case["arrays"]["retained"]["shape"]
        pivots = about["pivot_image_token"] + about["pivot_text_token"]
        assert shape == [about["pivot_image_token"] + pivots * about["per_pivot"]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_duplicates_zeros_and_what_is_not_finite(dtype: torch.dtype) -> None:
    """Equal norms and equal cosines go to the lower index: pivots first, then whatever is left in order."""
    text = torch.ones(2, 5, 4, dtype=dtype)
    for hidden in (torch.ones(2, 30, 4, dtype=dtype), torch.zeros(2, 30, 4, dtype=dtype)):
        x = DecoderView(hidden=hidden, keys=hidden, text_hidden=text, text_keys=text)
        for keep in (4, 5, 13, 29, 30):
            assert DART(keep).select(x, keep).tolist() == [list(range(keep))] * 2
    broken = torch.randn(2, 30, 4).to(dtype)
    broken[0, 3], broken[1, 7, 0] = math.nan, math.inf
    kept = DART(9).select(DecoderView(hidden=broken, keys=broken, text_hidden=text, text_keys=text), 9)
    assert [len(set(row)) for row in kept.tolist()] == [9, 9]


def test_equal_cosines_go_to_the_lower_index() -> None:
    """Copies of a few tokens, whole numbers, so that copies have equal cosines to the last bit."""
    few = torch.tensor([[3.0, 4.0], [4.0, 3.0], [-3.0, 4.0], [-4.0, -3.0]])
    hidden = few[torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])][None]
    keys = torch.zeros(1, 12, 2)
    keys[0, 5] = 9.0  # the pivot is a copy of (4, 3)
    x = DecoderView(hidden=hidden, keys=keys)
    assert DART(3, image_pivots=1).select(x, 3).tolist() == [[3, 5, 7]]
    assert DART(6, image_pivots=1).select(x, 6).tolist() == [[2, 3, 5, 6, 7, 11]]


def test_the_kept_follow_a_permutation() -> None:
    torch.manual_seed(0)
    x, order = replace(view(5, 3, 50, 7), text_mask=None), torch.randperm(50)
    moved = replace(x, hidden=x.hidden[:, order], keys=x.keys[:, order])
    kept = DART(19).select(x, 19)
    assert torch.equal(order[DART(19).select(moved, 19)].sort(dim=1).values, kept)
    # Cosines know no length, and norms no common factor.
    longer = replace(x, hidden=x.hidden * torch.rand(3, 50, 1).add(0.5), keys=x.keys * 2)
    assert torch.equal(DART(19).select(replace(longer, text_keys=x.text_keys * 3), 19), kept)


def test_without_text_the_pivots_of_the_picture_take_all() -> None:
    x = view(1, 4, 40, 6)
    nothing = replace(x, text_mask=torch.zeros(4, 6, dtype=torch.bool))
    bare = DecoderView(hidden=x.hidden, keys=x.keys)
    no_pivots = DART(21, text_pivots=0).select(x, 21)
    assert torch.equal(DART(21).select(nothing, 21), no_pivots) and torch.equal(DART(21).select(bare, 21), no_pivots)
    assert not torch.equal(DART(21).select(x, 21), no_pivots)


def test_what_the_text_that_is_not_there_holds_matters_not() -> None:
    x = view(2, 4, 40, 6)
    missing = ~x.text_mask[..., None]
    wild = replace(
        x, text_keys=x.text_keys.masked_fill(missing, 1e9), text_hidden=x.text_hidden.masked_fill(missing, math.nan)
    )
    assert torch.equal(DART(21).select(wild, 21), DART(21).select(x, 21))


def test_shapes_do_not_depend_on_data() -> None:
    """A fake tensor has no values: whatever reads one raises. And the whole is one graph."""
    x = view(0, 3, 40, 6)
    with FakeTensorMode() as mode:
        fake = DecoderView(**{name: mode.from_tensor(value) for name, value in vars(x).items() if value is not None})
        assert DART(21).select(fake, 21).shape == (3, 21)
    torch._dynamo.reset()
    compiled = torch.compile(DART(21).select, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, 21), DART(21).select(x, 21))


def test_settings_and_what_is_missing() -> None:
    assert DART(64).layer == 2 and DART(64).needs == {"hidden", "keys"} and not DART.inside
    assert DART(64).minimum == 4 and DART(64, image_pivots=7).minimum == 7
    assert DART(3).tokens_after(3) == 3  # there is nothing to drop
    assert DART(64, counts="official").leaves(576, 4) == (576, 68, 68, 68)
    for pruner in (DART(3), DART(3, counts="official"), DART(0.1)):
        with pytest.raises(ValueError, match="leaves 3 of 30 tokens, but dart with these settings leaves at least 4"):
            pruner.tokens_after(30)
    with pytest.raises(ValueError, match=r"layer=3 is outside 1\.\.2"):
        DART(8, layer=3).leaves(30, 3)
    for wrong in ({"layer": 0}, {"image_pivots": 0}, {"text_pivots": -1}, {"text_pivots": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            DART(8, **wrong)
    with pytest.raises(ValueError, match="did you mean 'official'"):
        DART(8, counts="offical")
    x = view(0, 1, 9, 3)
    for lacking in (replace(x, hidden=None), replace(x, keys=None)):
        with pytest.raises(ValueError, match=r"tap what `DART\.needs` asks for"):
            DART(8).select(lacking, 8)


def test_calls_that_mean_nothing() -> None:
    x = replace(view(0, 1, 9, 3), text_mask=None)
    image, text = chosen_pivots(x, 4, 2)
    for keep in (3, 10):
        with pytest.raises(ValueError, match=rf"keep={keep} is outside 4\.\.9"):
            least_duplicated(x, image, text, keep)
    for order in ([0, 1, 2], [0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6]):
        with pytest.raises(ValueError, match="is no order of 6 pivots"):
            least_duplicated(x, image, text, 8, order)


@pytest.mark.parametrize(("start", "tokens", "text", "own", "steering"), [(0, 23, 3, 1, 3), (50, 90, 11, 9, 7)])
def test_conformance_takes_any_form(start: int, tokens: int, text: int, own: int, steering: int) -> None:
    """Sizes and pivots that the files of `tests/golden` do not have, in a given order and in that of a set."""
    generator = torch.Generator().manual_seed(tokens)
    length = start + tokens + text
    x = {
        "hidden": torch.randn(1, length, 12, generator=generator),
        "keys": torch.randn(1, 3, length, 4, generator=generator),
    }
    sizes = {
        "image_token_start_index": start, "image_tokens": tokens,
        "pivot_image_token": own, "pivot_text_token": steering,
    }  # fmt: skip
    hidden = x["hidden"][0].double().tolist()
    keys = x["keys"][0].transpose(0, 1).flatten(1).double().tolist()
    block, behind = slice(start, start + tokens), slice(start + tokens, None)
    parts = hidden[block], keys[block], hidden[behind], keys[behind]
    image, text_places = strongest(keys[block], own)[0], strongest(keys[behind], steering)[0]
    places = [start + i for i in image] + [start + tokens + i for i in text_places]
    for about in (
        {"variant": "llava", "budget": 21}, {"variant": "llava_next", "budget": 10**6},
        {"variant": "llava_ratio", "reduction_ratio": 0.3}, {"variant": "qwen2vl", "reduction_ratio": 0.45},
    ):  # fmt: skip
        if "budget" in about:
            each = min(about["budget"], tokens - own) // (own + steering)
        else:
            each = math.floor(tokens * (1 - about["reduction_ratio"]) / (own + steering))
        for order in (None, places[::-1]):
            given = x if order is None else {**x, "pivot_order": torch.tensor(order)}
            found = conformance(given, {**sizes, **about})
            order = list(set(places)) if order is None else order
            numbers = [places.index(place) for place in order]
            wanted, gap = literal(*parts, own + (own + steering) * each, own, steering, numbers)
            assert gap > 1e-6
            assert found["retained"].tolist() == [start + i for i in wanted]
            assert found["image_pivots"].tolist() + found["text_pivots"].tolist() == places
            assert found["pivot_order"].tolist() == order
