"""What holds for every family: the shared table. A cell that `evoprune models` prints as yes is one of these tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune import EvoPrune, FitPrune, Random, apply, patch_processor
from evoprune.models import FAMILIES, find
from evoprune.pruners import METHODS, DecoderPruner, Pruner
from evoprune.recipes import Recipe, identify
from tests.families.case import Case, Row
from tests.families.table import CASES, mixed, model_of, visuals

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
# Tokens that are few enough for tiny towers to reach: a bipartite merge halves at most.
SCHEDULE = "mean"


# What a method cannot do without: tiny language models have two layers, and no recipe or text tower comes with them.
EXTRA: dict[str, dict[str, Any]] = {
    "cdpruner": {"text_tower": "embeddings"},
    "fastv": {"layer": 1},
    "dart": {"layer": 1, "image_pivots": 1, "text_pivots": 2},
}


def pruner_of(method: str, keep: int | float, model: Any = None, **settings: Any) -> Pruner:
    if method == "fitprune":
        return FitPrune(Recipe(1000, (int(500 + 500 * keep), int(1000 * keep)), identify(model.config)))
    extra = {"schedule": SCHEDULE} if METHODS[method].stage == "encoder" else EXTRA.get(method, {})
    return METHODS[method](keep, **extra, **settings)


def merging(keep: int | float, **settings: Any) -> EvoPrune:
    return EvoPrune(keep, schedule=SCHEDULE, **settings)


PRUNERS = [merging(0.25), Random(0.25), merging(0.25, positions="original")]


def last(model: Any, x: dict[str, Any]) -> torch.Tensor:
    """Return the logits of each row's last token."""
    return model(**x).logits[:, -1]


def test_every_family_has_a_case() -> None:
    assert {family.name for family in FAMILIES} == {case.family for case in CASES}
    # What the table of `evoprune models` says of videos: every yes has clips here, every no has none.
    with_clips = {case.family for case in CASES if case.videos}
    assert with_clips == {one.name for one in FAMILIES if "video" in one.modalities or one.frames_as_images}
    assert all(family.towers and family.examples for family in FAMILIES)


@EVERY
@torch.no_grad()
def test_keep_all_and_remove_are_bit_identical(case: Case) -> None:
    x = case.inputs(mixed(case))
    with model_of(case) as model:
        before = model(**x).logits
        with apply(model, merging(1.0)):
            assert torch.equal(model(**x).logits, before)
        with apply(model, [merging(case.keep)], **case.options):
            model(**x)
        assert torch.equal(model(**x).logits, before)
        with apply(model, Random(1.0)):
            assert torch.equal(model(**x).logits, before)


def expected_counts(case: Case, rows: list[Row], keep: int | float) -> tuple[int, ...]:
    return tuple(case.short(part, keep) for part in visuals(rows))


@EVERY
@pytest.mark.parametrize("share", [0.25, None], ids=["share", "int"])
@torch.no_grad()
def test_counts_of_many_sizes_and_lengths(case: Case, share: float | None) -> None:
    keep = case.keep if share is None else share
    with model_of(case) as model, apply(model, merging(keep), **case.options) as handle:
        seen: list[int] = []
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ) if hasattr(model.model, "language_model") else model.model.text_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )  # fmt: skip
        try:
            for part in (*case.pictures, *case.videos):
                row = [("see ", part, " what ?")]
                x = case.inputs(row)
                model(**x)
                long, short = case.full(part), case.short(part, keep)
                assert sum(handle.stats.visual_tokens) == short, part
                assert seen[-1] == x["input_ids"].shape[1] - long + short, part
        finally:
            hook.remove()
    assert len(case.pictures) >= 20


@EVERY
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda one: f"{one.name}-{one.positions}")
@torch.no_grad()
def test_a_mixed_batch_equals_its_rows(case: Case, pruner: Pruner) -> None:
    rows = mixed(case)
    with model_of(case) as model, apply(model, pruner, **case.options):
        batch = last(model, case.inputs(rows))
        for row, logits in zip(rows, batch, strict=True):
            torch.testing.assert_close(last(model, case.inputs([row]))[0], logits, atol=1e-5, rtol=1e-4)


@EVERY
@torch.no_grad()
def test_pruning_changes_answers_and_pictures_matter(case: Case) -> None:
    """A model whose answers did not depend on the pictures could not tell a wrong count from a right one."""
    first, second = case.pictures[0], case.pictures[0]._replace(seed=99)
    with model_of(case) as model:
        native = last(model, case.inputs([("a ", first, " b")]))
        other = last(model, case.inputs([("a ", second, " b")]))
        assert (native - other).abs().max() > 1e-3
        with apply(model, merging(0.25), **case.options):
            pruned = last(model, case.inputs([("a ", first, " b")]))
            assert (pruned - native).abs().max() > 1e-4
            assert (pruned - last(model, case.inputs([("a ", second, " b")]))).abs().max() > 1e-4


@EVERY
@pytest.mark.parametrize("positions", ["contiguous", "original"])
@torch.no_grad()
def test_generate_gives_what_forward_gives(case: Case, positions: Any) -> None:
    rows = mixed(case)
    x = case.inputs(rows)
    with model_of(case) as model, apply(model, merging(0.25, positions=positions), **case.options):
        out = model.generate(**x, max_new_tokens=3, do_sample=False)
        assert torch.equal(out[:, : x["input_ids"].shape[1]], x["input_ids"])
        assert torch.equal(out[:, x["input_ids"].shape[1]], last(model, x).argmax(-1))
        for row, answer in zip(rows, out, strict=True):
            alone = model.generate(**case.inputs([row]), max_new_tokens=3, do_sample=False)
            assert torch.equal(alone[0, -3:], answer[-3:])


@EVERY
@torch.no_grad()
def test_beams(case: Case) -> None:
    rows = mixed(case)
    with model_of(case) as model, apply(model, merging(0.25), **case.options):
        out = model.generate(**case.inputs(rows), max_new_tokens=3, num_beams=3, do_sample=False)
        for row, answer in zip(rows, out, strict=True):
            alone = model.generate(**case.inputs([row]), max_new_tokens=3, num_beams=3, do_sample=False)
            assert torch.equal(alone[0, -3:], answer[-3:])


@EVERY
@torch.no_grad()
def test_a_second_turn_with_the_cache_equals_a_fresh_one(case: Case) -> None:
    part = case.pictures[0]
    row: Row = ("a ", part, " what ?")
    x = case.inputs([row])
    with model_of(case) as model, apply(model, merging(0.25), **case.options):
        first = model.generate(**x, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        words = case.inputs([(" and then ?",)])["input_ids"]
        ids = torch.cat((first.sequences, words), dim=1)
        more = {k: v for k, v in x.items() if k not in ("input_ids", "attention_mask")}
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in more:
                wider = more[name].new_zeros(1, ids.shape[1] - more[name].shape[1])
                more[name] = torch.cat((more[name], wider), dim=1)
        mask = torch.ones_like(ids)
        fresh = model.generate(input_ids=ids, attention_mask=mask, **more, max_new_tokens=4, do_sample=False)
        again = {k: v for k, v in more.items() if not k.startswith("pixel")}
        cached = model.generate(
            input_ids=ids, attention_mask=mask, **again, past_key_values=first.past_key_values, max_new_tokens=4,
            do_sample=False,
        )  # fmt: skip
    assert torch.equal(fresh, cached)


@EVERY
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("share", [0.5, 0.25, 0.15])
@torch.no_grad()
def test_every_method_at_three_budgets_alone_and_in_a_batch(case: Case, method: str, share: float) -> None:
    family = next(one for one in FAMILIES if one.name == case.family)
    rows = mixed(case)
    rows = [rows[0], *rows[2:], ("then ", (case.pictures * 3)[2], " and this ?")][:3]
    with model_of(case) as model:
        pruner = pruner_of(method, share, model)
        if pruner.stage not in family.stages:
            with pytest.raises(ValueError, match=f"{pruner.name} acts at the {pruner.stage} stage"):
                apply(model, pruner, **case.options)
            return
        with apply(model, pruner, **case.options) as handle:
            batch = last(model, case.inputs(rows))
            together, inside = handle.stats.visual_tokens, handle.stats.decoder_tokens
            assert torch.isfinite(batch).all()
            if isinstance(pruner, DecoderPruner):
                entering = [case.full(part) for part in visuals(rows)]
                assert sum(one[-1] for one in inside) < 0.8 * sum(entering)
            counts: list[int] = []
            for row, logits in zip(rows, batch, strict=True):
                torch.testing.assert_close(last(model, case.inputs([row]))[0], logits, atol=1e-5, rtol=1e-4)
                counts += handle.stats.visual_tokens
            assert sorted(counts) == sorted(together)
            if isinstance(pruner, DecoderPruner):
                if not case.options:  # a pooling has counts of its own
                    assert sum(together) == sum(case.full(part) for part in visuals(rows))  # they go behind the prompt
            elif method in ("downsample", "pool"):  # squares
                assert 0 < sum(together) <= sum(expected_counts(case, rows, share))
            else:
                assert sum(together) == sum(expected_counts(case, rows, share))  # told tile by tile in some families


@EVERY
@torch.no_grad()
def test_chunks_of_the_encoder_give_equal_results(case: Case) -> None:
    x = case.inputs(mixed(case))
    with model_of(case) as model:
        with apply(model, merging(0.25), **case.options) as handle:
            whole, maps = last(model, x), handle.stats.sources
        with apply(model, merging(0.25), encoder_batch=2, **case.options) as handle:
            torch.testing.assert_close(last(model, x), whole, atol=1e-5, rtol=1e-4)
            for one, other in zip(handle.stats.sources, maps, strict=True):
                assert torch.equal(one, other)
        native = last(model, x)
        with apply(model, merging(1.0), encoder_batch=2):
            torch.testing.assert_close(last(model, x), native, atol=1e-5, rtol=1e-4)


@EVERY
@torch.no_grad()
def test_maps_cover_every_unit_once(case: Case) -> None:
    x = case.inputs(mixed(case))
    with model_of(case) as model, apply(model, merging(0.25), **case.options) as handle:
        model(**x)
        sources, positions = list(handle.stats.sources), list(handle.stats.positions)
        assert handle.stats.flops > 0 and handle.stats.selection_flops > 0
        for standing, places in zip(sources, positions, strict=True):
            assert set(standing.tolist()) == set(range(len(places)))  # every survivor stands for something
            assert torch.equal(standing[places], torch.arange(len(places)))  # and for its own place
            assert torch.equal(places, places.sort().values)  # raster order


@EVERY
@pytest.mark.parametrize("attention", ["eager"])
@torch.no_grad()
def test_eager_attention_gives_the_same(case: Case, attention: str) -> None:
    x = case.inputs(mixed(case)[:1])
    with model_of(case) as model, apply(model, merging(0.25), **case.options):
        expected = last(model, x)
    model = case.model()
    model.set_attn_implementation(attention)
    with apply(model, merging(0.25), **case.options):
        torch.testing.assert_close(last(model, x), expected, atol=1e-4, rtol=1e-3)


@EVERY
@torch.no_grad()
def test_wrong_placeholders_are_refused(case: Case) -> None:
    x = case.inputs([("a ", case.pictures[0], " b")])
    with model_of(case) as model, apply(model, merging(0.25), **case.options):
        place = (x["input_ids"][0] == find(model).image_token_id).nonzero()[0]
        ids = x["input_ids"].clone()
        ids[0, place] = 5
        broken = {**x, "input_ids": ids}
        with pytest.raises(ValueError, match="placeholder"):
            model(**broken)
        model(**x)  # and the next call is right again


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision_runs_and_counts_stay(case: Case, dtype: torch.dtype) -> None:
    rows = mixed(case)[:1]
    model = case.model().to(dtype)
    x = {k: v.to(dtype) if torch.is_floating_point(v) else v for k, v in case.inputs(rows).items()}
    with apply(model, merging(0.25), **case.options) as handle:
        assert torch.isfinite(last(model, x)).all()
        assert sum(handle.stats.visual_tokens) == sum(expected_counts(case, rows, 0.25))


@EVERY
@torch.no_grad()
def test_the_base_model_called_by_itself_is_pruned_too(case: Case) -> None:
    rows = mixed(case)[:1]
    x = case.inputs(rows)
    with model_of(case) as model:
        with apply(model, merging(0.25), **case.options) as handle:
            expected, tokens = model(**x).logits, handle.stats.visual_tokens
            hidden = model.model(**x).last_hidden_state
            assert handle.stats.visual_tokens == tokens
            torch.testing.assert_close(model.lm_head(hidden), expected, atol=1e-5, rtol=1e-4)
        with apply(model.model, merging(0.25), **case.options):
            assert torch.equal(model.model(**x).last_hidden_state, hidden)
            # A whole model around it would number and cache its prompt as if nothing had been dropped.
            with pytest.raises(ValueError, match="apply it to the whole model"):
                model.generate(**x, max_new_tokens=2)


@EVERY
@torch.no_grad()
def test_a_wrapper_put_on_meanwhile_is_left_native_by_remove(case: Case) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    x, model = case.inputs(mixed(case)), case.model()
    native = model(**x).logits
    handle = apply(model, merging(0.25), encoder_batch=2, **case.options)
    model(**x)
    for module in list(model.modules()):
        add_hook_to_module(module, ModelHook())
    pruned = model(**x).logits
    assert pruned.shape[1] < native.shape[1]
    handle.remove()
    assert torch.equal(model(**x).logits, native)


@EVERY
@torch.no_grad()
def test_features_asked_for_alone_begin_new_statistics(case: Case) -> None:
    first, second = case.inputs([("a ", case.pictures[0], " b")]), case.inputs([("a ", case.pictures[1], " b")])
    names = ("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask")
    pictures = {name: second[name] for name in names if name in second}
    with model_of(case) as model, apply(model, merging(0.25), **case.options) as handle:
        model(**second)
        expected, items = handle.stats.flops, len(handle.stats.grids)
        model(**first)
        model.model.get_image_features(**pictures)
        assert (handle.stats.flops, len(handle.stats.grids)) == (expected, items)
        assert len(list(handle.stats.sources)) == items


SURROUNDED = pytest.mark.parametrize("name", ["gemma3", "internvl", "idefics3", "llava_next"])


@SURROUNDED
def test_processors_that_write_more_than_placeholders_are_refused_at_once(name: str) -> None:
    import importlib

    module = importlib.import_module(f"tests.families.{name}")
    processor = module.processor()
    with pytest.raises(ValueError, match="leave it as it is"):
        patch_processor(processor, Random(4))
    assert not {"replace_image_token", "_get_num_multimodal_tokens"} & set(processor.__dict__)


@pytest.mark.parametrize("schedule", ["last:40", (1, 2, 3)])
def test_schedules_that_no_picture_could_make_fit_are_refused_by_apply(schedule: Any) -> None:
    case = next(case for case in CASES if case.family == "Qwen2-VL")
    with model_of(case) as model, pytest.raises(ValueError, match="layers"):
        apply(model, EvoPrune(0.25, schedule=schedule))


@pytest.mark.parametrize("schedule", ["first:1", (0, 0, 1, 0, 0, 0)])
def test_schedules_that_merge_inside_windows_only_are_refused_by_apply(schedule: Any) -> None:
    case = next(case for case in CASES if case.family == "Qwen2.5-VL")
    with model_of(case) as model, pytest.raises(ValueError, match="may merge in this model"):
        apply(model, EvoPrune(0.25, schedule=schedule))


def test_options_are_checked_by_family() -> None:
    cases = {case.family: case for case in CASES}
    with model_of(cases["LLaVA-1.5"]) as model, pytest.raises(ValueError, match=r"has no options.*leave it out"):
        apply(model, EvoPrune(16), pool="average")
    with model_of(cases["LLaVA-OneVision"]) as model:
        with pytest.raises(ValueError, match="'pol': did you mean 'pool'"):
            apply(model, EvoPrune(16), pol="average")
        with pytest.raises(ValueError, match="'averag'"):
            apply(model, EvoPrune(16), pool="averag")


def test_pixels_without_their_grids_are_refused_in_a_sentence() -> None:
    case = next(case for case in CASES if case.family == "Qwen2-VL")
    x = case.inputs([("a ", case.pictures[0], " b")])
    del x["image_grid_thw"]
    with model_of(case) as model, apply(model, merging(0.25)), pytest.raises(ValueError, match="image_grid_thw"):
        model(**x)


@pytest.mark.parametrize("pruners", [EvoPrune, None, 5, "evoprune", [EvoPrune(16), "random"]], ids=str)
def test_what_is_no_pruner_is_refused(pruners: Any) -> None:
    case = next(case for case in CASES if case.family == "LLaVA-1.5")
    with model_of(case) as model, pytest.raises(TypeError, match="is no pruner: give for example"):
        apply(model, pruners)


@pytest.mark.parametrize("batch", [0, -1, 2.0, True, "4"])
def test_a_chunk_has_at_least_one_picture(batch: Any) -> None:
    case = next(case for case in CASES if case.family == "LLaVA-1.5")
    with model_of(case) as model, pytest.raises(ValueError, match=r"encoder_batch=.* from 1 on"):
        apply(model, EvoPrune(16), encoder_batch=batch)
