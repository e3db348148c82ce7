"""VisionZip: its choice and its merge against loops over one image, and what it does where the official code fails."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from evoprune import AdaptivePool, VisionZip
from evoprune.pruners import FeatureView
from evoprune.pruners.visionzip import conformance, followed, merged, split
from tests.zipped import literal


def view(
    batch: int = 2, length: int = 20, width: int = 6, seed: int = 0, cls: bool = True, **change: Any
) -> FeatureView:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, length, width, generator=generator)
    importance = torch.rand(batch, length, generator=generator)
    keys = torch.randn(batch, length, 5, generator=generator)
    state = torch.randn(batch, width, generator=generator) if cls else None
    return FeatureView(**{"features": features, "importance": importance, "keys": keys, "cls": state} | change)


def run(pruner: Any, shown: FeatureView, keep: int, units: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    chosen = pruner.select(shown, keep)
    tokens = pruner.combine(shown.features if units is None else units, shown, chosen)
    return tokens, chosen, pruner.standing(shown, chosen)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0, 1), st.booleans(), st.booleans(), st.data())
def test_equals_loops(seed: int, length: int, ratio: float, has: bool, wants: bool, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, length))
    shown = view(length=length, seed=seed, cls=has)
    pruner = VisionZip(keep, contextual_ratio=ratio, cls=wants)
    tokens, chosen, held = run(pruner, shown, keep)
    first = int(has and wants)
    contextual = min(math.floor(keep * ratio + 0.5), keep - first)
    assert tokens.shape == (2, keep, 6)
    assert chosen.shape == (2, keep)
    assert chosen.dtype == held.dtype == torch.int64
    for n in range(2):
        state = shown.cls[n].double().tolist() if first else None
        wanted = literal(
            shown.features[n].double().tolist(), shown.importance[n].tolist(), shown.keys[n].double().tolist(), state,
            keep - first - contextual, contextual,
        )  # fmt: skip
        assert chosen[n].tolist() == wanted[1]
        if wanted[3] > 1e-5:  # no ties of the cosines: everything follows
            assert held[n].tolist() == wanted[2]
            torch.testing.assert_close(tokens[n].double(), torch.tensor(wanted[0]).double(), atol=1e-5, rtol=1e-5)


def test_units_of_several_patches_are_merged_patch_by_patch() -> None:
    shown = view(length=30)
    wide = torch.randn(2, 30, 4 * 6)
    tokens, chosen, _ = run(VisionZip(12, cls=False), shown, 12, wide)
    for n in range(2):
        whole, places, _, _ = literal(
            wide[n].double().tolist(), shown.importance[n].tolist(), shown.keys[n].double().tolist(), None, 10, 2
        )
        assert chosen[n].tolist() == places
        torch.testing.assert_close(tokens[n].double(), torch.tensor(whole).double(), atol=1e-5, rtol=1e-5)
    parts = wide.unflatten(2, (4, 6))
    for patch in range(4):
        alone, _, _ = run(VisionZip(12, cls=False), shown, 12, parts[:, :, patch])
        torch.testing.assert_close(alone, tokens.unflatten(2, (4, 6))[:, :, patch], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("keep", "ratio", "counts"), [(64, 10 / 64, (1, 53, 10)), (128, 10 / 64, (1, 107, 20))])
def test_counts_of_the_paper(keep: int, ratio: float, counts: tuple[int, int, int]) -> None:
    shown = view(length=576, batch=1)
    tokens, chosen, held = run(VisionZip(keep, contextual_ratio=ratio), shown, keep)
    first, dominant, contextual = counts
    assert tokens.shape[1] == keep == sum(counts)
    assert (chosen[:, first : first + dominant].diff(dim=1) > 0).all()
    assert (chosen[:, -contextual:].diff(dim=1) > 0).all()
    assert len(set(chosen[0, first:].tolist())) == keep - 1
    assert set(held[0].tolist()) == set(range(1, keep))  # nothing is dropped, and CLS holds no patch


@pytest.mark.parametrize("cls", [False, True])
def test_where_the_official_code_fails(cls: bool) -> None:
    shown = view(cls=cls)
    for keep, ratio in ((5, 0.0), (2, 1.0), (20, 0.1), (20, 1.0)):
        tokens, chosen, held = run(VisionZip(keep, contextual_ratio=ratio), shown, keep)
        assert tokens.shape == (2, keep, 6)
        assert torch.isfinite(tokens).all()
        assert held.max() == keep - 1
        assert (chosen >= 0).all()
        if not ratio:  # no contextual tokens: the others are dropped
            assert ((held < 0).sum(dim=1) == 20 - keep + cls).all()
    alone, chosen, held = run(VisionZip(1), shown, 1)
    if cls:
        assert torch.equal(alone[:, 0], shown.cls)
        assert (chosen == 0).all()
        assert (held < 0).all()
    # More targets than tokens are left, and none left at all: as many as there are.
    assert split(shown.importance, 17, 5).targets.shape == (2, 3)
    assert split(shown.importance, 20, 5).targets.shape == (2, 0)
    assert split(shown.importance, 17, 5).places.tolist() == [0, 1, 2]


def test_keys_that_tell_nothing() -> None:
    zero, broken = view(keys=torch.zeros(2, 20, 5)), view(keys=torch.full((2, 20, 5), math.nan))
    for shown in (zero, broken):
        tokens, chosen, held = run(VisionZip(8, contextual_ratio=0.25, cls=False), shown, 8)
        others = [i for i in range(20) if i not in chosen[0].tolist()]
        assert (held[0][others] == 6).all()  # all follow the first target
        assert torch.isfinite(tokens).all()
    twins = view(keys=torch.ones(2, 20, 5))
    assert (followed(twins.keys, torch.tensor([[3, 7], [1, 2]])) == 0).all()


def test_a_target_without_followers_stays_bit_for_bit() -> None:
    units = torch.randn(1, 4, 8)
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]]])
    tokens, counts = merged(units, keys, torch.tensor([[3, 0, 1]]), 2)
    assert torch.equal(tokens[:, :2], units[:, [3, 0]])
    assert counts.tolist() == [[0.0, 1.0]]
    assert torch.equal(tokens[:, 2], units[:, 1] + units[:, 2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    shown = view(length=300, batch=1, width=16)
    half = FeatureView(shown.features.to(dtype), shown.importance, shown.keys.to(dtype), shown.cls.to(dtype))
    tokens, chosen, _ = run(VisionZip(10, contextual_ratio=0.2), half, 10)
    assert tokens.dtype == dtype
    exact = VisionZip(10, contextual_ratio=0.2).combine(half.features.double(), half, chosen)
    torch.testing.assert_close(tokens.double(), exact, atol=0, rtol=torch.finfo(dtype).eps)


def test_autocast_changes_nothing() -> None:
    shown = view(length=60)
    plain = run(VisionZip(12), shown, 12)
    with torch.autocast("cpu", torch.bfloat16):
        cast = run(VisionZip(12), shown, 12)
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))


def test_a_batch_equals_its_images() -> None:
    shown = view(batch=5, length=50)
    whole = run(VisionZip(16), shown, 16)
    for n in range(5):
        one = FeatureView(*(value[n : n + 1] for value in (shown.features, shown.importance, shown.keys, shown.cls)))
        tokens, chosen, held = run(VisionZip(16), one, 16)
        assert torch.equal(chosen[0], whole[1][n])
        assert torch.equal(held[0], whole[2][n])
        torch.testing.assert_close(tokens[0], whole[0][n], atol=1e-6, rtol=1e-6)


def test_gradients_reach_every_token() -> None:
    shown = view(length=30)
    units, state = shown.features.clone().requires_grad_(), shown.cls.clone().requires_grad_()
    shown = FeatureView(units.detach(), shown.importance, shown.keys, state)
    pruner = VisionZip(8)
    pruner.combine(units, shown, pruner.select(shown, 8)).sum().backward()
    assert (state.grad == 1).all()
    # Six dominant tokens, the target, and its followers' mean.
    torch.testing.assert_close(units.grad.sum(dim=(1, 2)), torch.full((2,), (6 + 1 + 1) * 6.0))
    assert (units.grad != 0).all()


@pytest.mark.parametrize(
    ("batch", "heads", "length", "dominant", "contextual"),
    [(3, 1, 21, 4, 3), (1, 5, 64, 31, 7), (2, 2, 10, 8, 2), (4, 3, 33, 1, 16)],
)
def test_conformance_of_other_sizes(batch: int, heads: int, length: int, dominant: int, contextual: int) -> None:
    """Another batch, an odd number of tokens, one head, wider keys: nothing is baked in."""
    torch.manual_seed(length)
    attn = torch.rand(batch, heads, length + 1, length + 1).softmax(-1)
    keys, hidden = torch.randn(batch, length + 1, 9), torch.randn(batch, length + 1, 7)
    found = conformance(
        {"attn": attn, "keys": keys, "hidden": hidden}, {"dominant_without_cls": dominant, "contextual": contextual}
    )
    assert found["output"].shape == (batch, 1 + dominant + contextual, 7)
    assert found["target_indices"].shape == (contextual,)
    for n in range(batch):
        scores = attn[n, :, 0, 1:].double().sum(0).tolist()
        wanted, places, held, _ = literal(
            hidden[n, 1:].double().tolist(), scores, keys[n, 1:].double().tolist(), hidden[n, 0].double().tolist(),
            dominant, contextual,
        )  # fmt: skip
        torch.testing.assert_close(found["output"][n].double(), torch.tensor(wanted).double(), atol=2e-5, rtol=2e-5)
        assert sorted(found["all_indices"][n, 1:].tolist()) == [place + 1 for place in places[1 : 1 + dominant]]
        counts = [held.count(1 + dominant + i) - 1 for i in range(contextual)]
        assert found["counts"][n, :, 0].tolist() == [max(1, count) for count in counts]


def test_settings() -> None:
    assert VisionZip(64).needs == {"importance", "keys", "cls"}
    assert VisionZip(64, cls=False).needs == {"importance", "keys"}
    for settings_, message in (
        ({"contextual_ratio": 1.5}, "contextual_ratio=1.5 is outside 0..1"),
        ({"contextual_ratio": "a"}, "contextual_ratio='a' is no number"),
        ({"cls": 1}, "cls=1 is neither true nor false"),
    ):
        with pytest.raises(ValueError, match=message):
            VisionZip(64, **settings_)
    with pytest.raises(ValueError, match="no importance or no keys"):
        VisionZip(4).select(view(keys=None), 4)


def test_nothing_waits_for_the_device() -> None:
    """On a device without values, whatever reads one fails; and all of it is one graph."""
    shown = view(length=50)
    with FakeTensorMode() as mode:
        bare = FeatureView(
            *(mode.from_tensor(one) for one in (shown.features, shown.importance, shown.keys, shown.cls)), grid=(5, 10)
        )
        for pruner in (VisionZip(16), AdaptivePool(16)):
            tokens, chosen, held = run(pruner, bare, 16)
            assert tokens.shape == (2, 16, 6)
            assert chosen.shape == (2, 16)
            assert held.shape == (2, 50)
    pruner = VisionZip(16)
    graph = torch.compile(lambda one: run(pruner, one, 16), backend="eager", fullgraph=True)
    for one, other in zip(graph(shown), run(pruner, shown, 16), strict=True):
        torch.testing.assert_close(one, other)
