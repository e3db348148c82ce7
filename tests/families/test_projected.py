"""The feature stage on every family: behind the projector (DivPrune), and where it combines tokens (VisionZip)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evoprune import AdaptivePool, DivPrune, EvoPrune, KeepFirst, VisionZip, apply
from evoprune.models import find
from evoprune.models.forms import Packed
from evoprune.ops.selection import max_min_diversity
from tests.families.case import Case
from tests.families.table import CASES, model_of

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
MERGING = EvoPrune(0.5, schedule="mean")


def pictures(case: Case) -> dict[str, Any]:
    first, second, third = (case.pictures * 3)[:3]
    return case.inputs([("a ", first, " b"), ("c ", second, " d ", third)])


def behind_the_projector(model: Any, x: dict[str, Any], pruners: Any, **settings: Any) -> tuple[list[Tensor], Any]:
    """Return each picture's or tile's tokens (K, D) as they leave the projector, and the statistics."""
    seen: list[Tensor] = []
    with apply(model, pruners, **settings) as handle:
        family = find(model)
        if isinstance(family.form, Packed):
            output = model.model.get_image_features(x["pixel_values"], x["image_grid_thw"])
            return list(output.pooler_output), handle.stats
        hook = family.projector.register_forward_hook(lambda module, args, output: seen.append(output))
        model(**x)
        hook.remove()
        assert len(seen) == 1
        return list(seen[0]), handle.stats


def expected(tokens: list[Tensor], stats: Any) -> list[Tensor]:
    counts = [group for run in stats._state.all_runs for group in run.by_item([[g] * len(g.items) for g in run.groups])]
    assert len(counts) == len(tokens)
    return [
        one[max_min_diversity(one[None], group.budget.selected)[0].sort().values] if group.budget.pruned else one
        for one, group in zip(tokens, counts, strict=True)
    ]


@EVERY
@torch.no_grad()
def test_it_keeps_the_farthest_of_the_projected_tokens(case: Case) -> None:
    x = pictures(case)
    with model_of(case) as model:
        if case.family == "Gemma 3":  # pruned pictures go without the pooling
            projector, tower = model.model.multi_modal_projector, model.model.vision_tower
            hidden = projector.mm_soft_emb_norm(tower(x["pixel_values"]).last_hidden_state)
            native = list(hidden @ projector.mm_input_projection_weight)
        else:
            native, _ = behind_the_projector(model, x, EvoPrune(1.0), **case.options)
        found, stats = behind_the_projector(model, x, DivPrune(0.25), **case.options)
        for one, other, places in zip(found, expected(native, stats), stats.positions, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
            assert len(places) == len(one)
        # The places that the statistics tell are those of the tokens.
        for one, tokens, places in zip(found, native, stats.positions, strict=True):
            torch.testing.assert_close(one, tokens[places], atol=1e-5, rtol=1e-4)
        in_parts, _ = behind_the_projector(model, x, DivPrune(0.25), encoder_batch=1, **case.options)
        for one, other in zip(in_parts, found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@EVERY
@torch.no_grad()
def test_behind_a_pruner_of_the_encoder(case: Case) -> None:
    x = pictures(case)
    with model_of(case) as model:
        merged, _ = behind_the_projector(model, x, MERGING, **case.options)
        found, stats = behind_the_projector(model, x, [MERGING, DivPrune(0.5)], **case.options)
        for one, other in zip(found, expected(merged, stats), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@EVERY
@torch.no_grad()
def test_features_of_the_tower_are_another_space(case: Case) -> None:
    """Each space has its own distances, and both leave as many."""
    x = pictures(case)
    with model_of(case) as model:
        found, stats = behind_the_projector(model, x, DivPrune(0.25), **case.options)
        places = list(stats.positions)
        before, stats = behind_the_projector(model, x, DivPrune(0.25, space="features"), **case.options)
        assert [len(one) for one in before] == [len(one) for one in found]
        assert any(not torch.equal(one, other) for one, other in zip(places, stats.positions, strict=True))


@EVERY
@torch.no_grad()
def test_keep_all_and_remove_are_bit_identical(case: Case) -> None:
    x = pictures(case)
    with model_of(case) as model:
        native = model(**x).logits
        with apply(model, DivPrune(1.0)):
            assert torch.equal(model(**x).logits, native)
        with apply(model, DivPrune(0.25), **case.options):
            assert model(**x).logits.shape[1] < native.shape[1]
        assert torch.equal(model(**x).logits, native)


@EVERY
@pytest.mark.parametrize("method", [VisionZip, AdaptivePool, KeepFirst])
@torch.no_grad()
def test_keeping_all_changes_nothing(case: Case, method: Any) -> None:
    x = pictures(case)
    with model_of(case) as model:
        native = model(**x).logits
        with apply(model, method(1.0)):
            assert torch.equal(model(**x).logits, native)
        with apply(model, method(0.25), **case.options):
            assert model(**x).logits.shape[1] < native.shape[1]
        assert torch.equal(model(**x).logits, native)


@EVERY
@pytest.mark.parametrize(
    "pruner", [VisionZip(0.3), AdaptivePool(0.3), [MERGING, VisionZip(0.5)]], ids=["visionzip", "pool", "after merging"]
)
@torch.no_grad()
def test_combined_tokens_in_chunks_and_with_eager_attention(case: Case, pruner: Any) -> None:
    x = pictures(case)
    with model_of(case) as model:
        with apply(model, pruner, **case.options) as handle:
            whole, stats = model(**x).logits[:, -1], (list(handle.stats.positions), list(handle.stats.sources))
        for places, sources in zip(*stats, strict=True):
            assert int(sources.min()) >= 0  # every unit is in some token
            assert int(sources.max()) == len(places) - 1
        with apply(model, pruner, encoder_batch=1, **case.options) as handle:
            torch.testing.assert_close(model(**x).logits[:, -1], whole, atol=1e-5, rtol=1e-4)
            told = list(handle.stats.positions), list(handle.stats.sources)
        for rows, others in zip(stats, told, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(rows, others, strict=True))
    model = case.model()
    model.set_attn_implementation("eager")
    with apply(model, pruner, **case.options):
        torch.testing.assert_close(model(**x).logits[:, -1], whole, atol=1e-4, rtol=1e-3)
