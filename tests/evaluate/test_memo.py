"""Shared tower features: what is encoded once gives what encoding every time gives, and nothing stays on the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from evoprune.apply import apply
from evoprune.evaluate.embedded.memo import TowerMemo
from evoprune.ops import kernels
from evoprune.pruners import (
    CDPruner,
    DivPrune,
    Downsample,
    EvoPrune,
    FasterVLM,
    FastV,
    Random,
    ToMe,
    VisionZip,
    VisPruner,
)
from tests import builders
from tests.families.table import CASES, mixed, model_of

CASE = {case.name: case for case in CASES}
TEXTS = ["<image> what ?", "a <image> longer question", "<image> b"]
CALLS = ([1, 2, 1], [1, 3, 2], [3, 3, 4])  # pictures of each call: four of nine are new
BEHIND = [Random(16), FasterVLM(16), VisPruner(16), VisionZip(16), DivPrune(16), FastV(16, layer=1)]
BEHIND += [CDPruner(16, text_tower="embeddings")]
INSIDE = [EvoPrune(16), EvoPrune(16, positions="original"), ToMe(16), Downsample(16), [EvoPrune(32), VisPruner(8)]]


@pytest.fixture(autouse=True)
def _as_a_user_generates() -> Iterator[None]:
    with torch.no_grad():
        yield


def facts(handle: Any) -> Any:
    stats = handle.stats
    rows = [[one.tolist() for one in value] for value in (stats.sources, stats.positions)]
    return rows, stats.tokens, stats.visual_tokens, stats.decoder_tokens, stats.flops, stats.grids


def answered(model: Any, pruners: Any, memo: TowerMemo | None = None, calls: Any = CALLS) -> list[Any]:
    """Return for each call the logits, what is generated, and the facts of the handle."""
    found = []
    with ExitStack() as stack:
        handle = stack.enter_context(apply(model, pruners)) if pruners else None
        if memo is not None:
            stack.enter_context(memo.over(model, handle))
        for seeds in calls:
            x = builders.inputs(TEXTS, seeds)
            logits = model(**x).logits
            said = model.generate(**x, max_new_tokens=2, do_sample=False)
            found.append((logits, said, None if handle is None else facts(handle)))
    return found


def same(found: list[Any], wanted: list[Any]) -> None:
    for (logits, said, told), (expected, words, known) in zip(found, wanted, strict=True):
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(said, words) and told == known


@pytest.mark.parametrize("pruners", [None, *BEHIND, *INSIDE])
def test_shared_equals_unshared(llava: Any, pruners: Any) -> None:
    memo = TowerMemo()
    same(answered(llava, pruners, memo), answered(llava, pruners))
    assert memo.encoded == 4 and memo.reused == 2 * 9 - 4


def test_methods_behind_the_tower_share_it_and_those_inside_keep_nothing(llava: Any) -> None:
    memo = TowerMemo()

    def encoded(pruners: Any) -> int:
        before = memo.encoded
        answered(llava, pruners, memo, CALLS[:1])
        return memo.encoded - before

    assert [encoded(one) for one in [None, *BEHIND]] == [2, 2, 2, 0, 2, 0, 0, 0]  # attention, and keys too: anew
    assert [encoded(one) for one in INSIDE] == [2] * len(INSIDE)
    assert not any(encoded(one) for one in [None, *BEHIND])
    assert len(memo) == 4 * 2  # the unpruned model, and what is noted for methods behind the tower
    memo.clear()
    assert len(memo) == memo.size == 0


def test_what_is_kept_is_bounded_and_the_least_recently_used_goes(llava: Any) -> None:
    calls = ([1, 2, 3], [1, 2, 4], [1, 2, 3])
    wanted = answered(llava, Random(16), calls=calls)
    probe = TowerMemo()
    answered(llava, Random(16), probe, [[1, 1, 1]])
    for pictures, encoded in ((3, 5), (4, 4), (0, 18)):  # of three kept, 4 displaces 3
        memo = TowerMemo(limit=pictures * probe.size)
        same(answered(llava, Random(16), memo, calls), wanted)
        assert memo.size == sum(one.numel() * 4 for rows in memo._kept.values() for one in rows) <= memo.limit
        assert len(memo) == pictures and memo.encoded == encoded


def test_nothing_is_left_on_the_model(llava: Any) -> None:
    x = builders.inputs(TEXTS, [1, 2, 3])
    before, attributes = llava(**x).logits, set(llava.model.vision_tower.__dict__)
    memo = TowerMemo()
    answered(llava, EvoPrune(16), memo)
    answered(llava, None, memo)
    with pytest.raises(RuntimeError, match="out of luck"), memo.over(llava):
        raise RuntimeError("out of luck")
    assert set(llava.model.vision_tower.__dict__) == attributes
    assert torch.equal(llava(**x).logits, before)


def test_a_tower_that_fails_leaves_the_run_in_progress(llava: Any) -> None:
    broken = llava.model.vision_tower.encoder.layers[2]
    x = builders.inputs(TEXTS, [1, 2, 3])
    with apply(llava, EvoPrune(16)) as handle, TowerMemo().over(llava, handle) as memo:
        wanted = llava(**x).logits
        hook = broken.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("kernel failed")))
        with pytest.raises(RuntimeError, match="kernel failed"):
            llava(**builders.inputs(TEXTS, [1, 7, 8]))
        assert handle._entry.state.run.images == 3
        hook.remove()
        torch.testing.assert_close(llava(**x).logits, wanted, atol=1e-5, rtol=1e-5)
        assert memo.encoded == 3


def test_pictures_are_told_apart_by_every_number(llava: Any) -> None:
    values = builders.inputs(TEXTS, [1, 2, 3])["pixel_values"]
    other = values.clone()
    other[1, 2, 31, 31] += 1e-6
    memo = TowerMemo()
    with memo.over(llava):
        for one, encoded in ((values, 3), (other, 4), (other.flip(0), 4)):
            found = llava.model.vision_tower(one).last_hidden_state
            assert memo.encoded == encoded
            with torch.enable_grad():
                plain = llava.model.vision_tower(one).last_hidden_state.detach()
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_what_decides_the_output_is_told_apart() -> None:
    model = builders.model()
    x = builders.inputs(TEXTS, [1, 2, 3])
    memo = TowerMemo()
    with memo.over(model):
        first = model(**x).logits
        assert memo.encoded == 3
        with kernels.reference_path():
            model(**x)
        assert memo.encoded == 6
        model.config.vision_feature_layer = -3
        assert not torch.allclose(model(**x).logits, first)
        model.config.vision_feature_layer = -2
        with torch.autocast("cpu", torch.bfloat16):
            model(**x)
        model.model.vision_tower.set_attn_implementation("eager")
        model(**x)
        encoded = memo.encoded
        assert encoded == 15
        model.model.vision_tower.encoder.layers[1].mlp.fc1.weight.mul_(2)
        changed = model(**x).logits
        assert memo.encoded == encoded + 3 and len(memo) == 3
    assert not torch.allclose(first, changed)
    torch.testing.assert_close(model(**x).logits, changed, atol=1e-5, rtol=1e-5)


def test_weights_that_change_unseen_are_noticed_by_the_next_context() -> None:
    model, memo = builders.model(), TowerMemo()
    x, tower = builders.inputs(TEXTS, [1, 2, 3]), model.model.vision_tower
    answered(model, None, memo, CALLS[:1])
    with torch.inference_mode():
        frozen = torch.nn.Parameter(tower.encoder.layers[0].mlp.fc1.weight.clone(), requires_grad=False)
    tower.encoder.layers[0].mlp.fc1.weight = frozen
    edits = (
        lambda: tower.encoder.layers[1].mlp.fc1.weight.data.mul_(2),
        lambda: frozen.data.copy_(frozen.flip(0)),  # the same sum
    )
    with memo.over(model):
        model(**x)
    for edit in edits:
        with torch.inference_mode():
            edit()
        with memo.over(model):
            encoded = memo.encoded
            found = model(**x).logits
            assert memo.encoded == encoded + 3
        torch.testing.assert_close(model(**x).logits, found, atol=1e-5, rtol=1e-5)


def test_another_tower_shares_nothing() -> None:
    model, memo = builders.model(), TowerMemo()
    answered(model, None, memo, CALLS[:1])
    other = builders.model()
    for one, two in zip(other.parameters(), model.parameters(), strict=True):
        one.data = two.data  # at the same addresses, with the same numbers
    encoded = memo.encoded
    with memo.over(other):
        assert len(memo) == 0
    answered(other, None, memo, CALLS[:1])
    assert memo.encoded == 2 * encoded
    answered(other, None, memo, CALLS[:1])
    assert memo.encoded == 2 * encoded


def test_calls_that_ask_for_more_run_as_without(llava: Any) -> None:
    tower, values = llava.model.vision_tower, builders.inputs(TEXTS, [1, 2, 3])["pixel_values"]
    memo = TowerMemo()
    with apply(llava, EvoPrune(16)) as handle:
        wanted = tower(values, output_hidden_states=True).hidden_states
        with memo.over(llava, handle):
            found = tower(values, output_hidden_states=True).hidden_states
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            with torch.enable_grad():
                asked = values.clone().requires_grad_()
                tower(asked).last_hidden_state.sum().backward()
                assert asked.grad is not None
                llava.zero_grad(set_to_none=True)
    with apply(llava, EvoPrune(16), encoder_batch=2) as handle, memo.over(llava, handle):
        tower(values)
    assert memo.encoded == memo.reused == 0


@pytest.mark.parametrize("name", ["gemma3", "idefics3", "internvl", "llava_next", "llava_onevision", "qwen2"])
@pytest.mark.parametrize("pruner", [EvoPrune(0.5, schedule="mean"), Random(0.5), FastV(0.5, layer=1)])
def test_every_kind_of_family(name: str, pruner: Any) -> None:
    case, memo = CASE[name], TowerMemo()
    x = case.inputs(mixed(case))
    with model_of(case) as model, apply(model, pruner) as handle:
        wanted = model(**x).logits, facts(handle)
        with memo.over(model, handle):
            for _ in range(2):
                torch.testing.assert_close(model(**x).logits, wanted[0], atol=1e-5, rtol=1e-5)
                assert facts(handle) == wanted[1]
    served = name not in ("idefics3", "qwen2")  # a tower that gets masks, and a packed one, run as without
    assert memo.reused >= memo.encoded and bool(memo.encoded) == served
