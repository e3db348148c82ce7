"""Arms, stages and counts of `evoprune bench`, on presets made small; nothing here looks at how long anything took."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from evoprune.bench import arms, results
from evoprune.bench.build import build, processors
from evoprune.bench.calls import Caller
from evoprune.bench.clocks import FlopClock, MemoryClock, counter
from evoprune.bench.inputs import Maker, Shape
from evoprune.bench.measure import STAGES, Rounds, measure, order
from evoprune.bench.probe import Probe
from evoprune.bench.run import Plan, bench, facts, try_pruners
from evoprune.bench.sweep import Sweep
from evoprune.models import find
from evoprune.ops import kernels
from evoprune.pruners import EvoPrune, Random, UniformGrid
from tests.bench.small import small

CPU = torch.device("cpu")
ENCODER = ["encoder", "selection", "projector", "pre_llm", "whole"]


@functools.cache
def model_of(name: str) -> Any:
    return build(small(name))


def maker_of(name: str) -> Maker:
    preset = small(name)
    return Maker(find(model_of(name)), *processors(preset), size=preset.picture, prompt=12)


def result_of(name: str, plan: Plan) -> dict[str, Any]:
    model = model_of(name)
    head = facts(
        model=name, preset=small(name).to_dict(), stages=plan.stages, dtype=model.dtype, device=CPU, attention="sdpa"
    )
    return bench(model, maker_of(name), plan, Sweep(None, plan.configuration(), head))


@pytest.fixture(scope="module")
def encoder() -> dict[str, Any]:
    plan = Plan([EvoPrune(keep=40), Random(keep=16)], [Shape(2)], "encoder", Rounds(2, 1), naive=True)
    return result_of("llava-1.5-7b", plan)


def test_the_result_is_what_the_readers_expect(encoder: dict[str, Any]) -> None:
    assert results.check(encoder) is encoder
    head = {"format", "manifest", "command", "model", "preset", "stages", "dtype", "device", "attention", "threads"}
    assert head | {"configuration", "kernels", "cells"} == set(encoder)
    assert encoder["kernels"] == kernels.status()
    (cell,) = encoder["cells"]
    assert {k: v for k, v in cell.items() if k != "arms"} == {
        "images": 2, "frames": None, "batch": 1, "repeats": 2, "warmup": 3, "prompt_tokens": 12,
    }  # fmt: skip
    for arm in cell["arms"]:
        assert arm["error"] is None and arm["attention"] == "sdpa" and arm["encoder_mode"] == "eager"
        assert [stage for stage in STAGES if stage in arm["seconds"]] == list(arm["seconds"])
        for stage, figures in arm["seconds"].items():
            assert len(figures["all"]) == 2
            assert min(figures["all"]) <= figures["p10"] <= figures["median"] <= figures["p90"] <= max(figures["all"])
            assert set(arm["cpu_seconds"][stage]) == set(figures)
        assert set(arm["memory"]) == {"encoder", "pre_llm", "whole"}


def test_arms_are_listed_native_first_and_the_plain_path_beside_what_merges(encoder: dict[str, Any]) -> None:
    found = encoder["cells"][0]["arms"]
    assert [(arm["name"], arm["kind"], arm["path"]) for arm in found] == [
        ("native", "native", "fast"),
        ("native-read", "native-read", "fast"),
        ("evoprune 40", "pruned", "fast"),
        ("evoprune 40 naive", "pruned", "naive"),
        ("random 16", "pruned", "fast"),
    ]
    assert [arm["kept"] for arm in found] == [64, 64, 40, 40, 16]
    assert [arm["visual_tokens"] for arm in found] == [128, 128, 80, 80, 32]
    assert [len(arm["tokens"]) for arm in found] == [4, 3, 3, 3, 3]
    assert found[2]["tokens"][-1] == 40 and found[4]["tokens"] == [64] * 3
    assert found[2]["pruner"] == EvoPrune(keep=40).to_dict() and found[0]["pruner"] is None


def test_the_native_arm_alone_has_no_selection(encoder: dict[str, Any]) -> None:
    for arm in encoder["cells"][0]["arms"]:
        expected = [stage for stage in ENCODER if stage != "selection" or arm["kind"] == "pruned"]
        assert list(arm["seconds"]) == expected


def test_stages_lie_within_the_whole(encoder: dict[str, Any]) -> None:
    for arm in encoder["cells"][0]["arms"]:
        for run in range(2):
            took = {stage: figures["all"][run] for stage, figures in arm["seconds"].items()}
            assert took["encoder"] + took["projector"] == pytest.approx(took["pre_llm"])
            assert 0 < took["pre_llm"] <= took["whole"]
        assert 0 <= arm["unaccounted"] < 1


@pytest.mark.parametrize("name", ["internvl3-1b", "qwen3-vl-2b"])
def test_flops_that_torch_counts_are_those_of_the_shape_model(name: str) -> None:
    keep = 0.6
    plan = Plan([EvoPrune(keep=keep), UniformGrid(keep=keep)], [Shape(1)], "encoder", Rounds(1))
    for arm in result_of(name, plan)["cells"][0]["arms"]:
        counted, predicted = arm["flops"], arm["flops_predicted"]
        assert counted["encoder"] == pytest.approx(predicted["encoder"] + predicted["selection"], rel=0.03)
        assert counted["encoder"] + counted["projector"] == counted["pre_llm"] == counted["whole"]
        assert counted.get("selection", 0) == pytest.approx(predicted["selection"], rel=0.1)


def test_layers_nobody_reads_make_an_arm_only_where_there_are_some() -> None:
    assert arms.has_unread(find(model_of("llava-1.5-7b")))
    assert not arms.has_unread(find(model_of("qwen3-vl-2b")))
    plan = Plan([EvoPrune(keep=40)], [Shape(1)], native_read=False)
    assert [arm.name for arm in plan.arms(find(model_of("llava-1.5-7b")))] == ["native", "evoprune 40"]


def test_every_arm_begins_a_round_once() -> None:
    rounds = [order(4, turn) for turn in range(4)]
    assert rounds[:2] == [[0, 1, 2, 3], [1, 2, 3, 0]]
    assert sorted(one[0] for one in rounds) == [0, 1, 2, 3] and all(sorted(one) == [0, 1, 2, 3] for one in rounds)


def test_arms_take_turns_within_each_round() -> None:
    told: list[str] = []
    model, maker = model_of("llava-1.5-7b"), maker_of("llava-1.5-7b")
    sides = arms.make([Random(keep=16)])
    measure(sides, model, Caller(maker, Shape(1), "encoder", CPU, torch.float32), Rounds(2, 1), {}, told.append)
    names = [one.partition(":")[0] for one in told]
    listed = ["native", "native-read", "random 16"]
    assert names == listed * 2 + listed + [*listed[1:], listed[0]] + [listed[2], *listed[:2]]
    assert told[-1] == "native-read: run 2 of 2" and len(told) == Rounds(2, 1).total * 3


def test_a_method_that_cannot_do_what_others_can_says_so_in_its_arm() -> None:
    plan = Plan([EvoPrune(keep=9), UniformGrid(keep=9)], [Shape(1)], "encoder", Rounds(1))
    model = model_of("llava-1.5-7b")
    try_pruners(model, plan.pruners, {})
    found = {arm["name"]: arm for arm in result_of("llava-1.5-7b", plan)["cells"][0]["arms"]}
    assert "smallest reachable keep is 32" in found["evoprune 9"]["error"]
    assert "seconds" not in found["evoprune 9"] and found["grid 9"]["seconds"]
    with pytest.raises(ValueError, match="smallest reachable keep is 32"):
        try_pruners(model, [EvoPrune(keep=9), EvoPrune(keep=40)], {})


def test_one_arm_cannot_be_asked_for_twice() -> None:
    with pytest.raises(ValueError, match="'evoprune 64' is asked for twice"):
        arms.make([EvoPrune(keep=64), EvoPrune(keep=64, neighbors=3)])


def test_pruned_arms_share_the_weights_and_leave_the_model_alone() -> None:
    model = model_of("llava-1.5-7b")
    live = arms.Live(arms.Arm("evoprune 40", "pruned", EvoPrune(keep=40)), model, {})
    assert live.model is not model
    pairs = zip(live.model.parameters(), model.parameters(), strict=True)
    assert all(mine.data_ptr() == its.data_ptr() for mine, its in pairs)
    assert not any(block._forward_pre_hooks for block in model.modules()) and "generate" not in model.__dict__
    assert live.handle is not None and live.merges


def test_the_plain_path_is_taken_by_naive_arms_alone() -> None:
    model = model_of("llava-1.5-7b")
    for naive in (False, True):
        live = arms.Live(arms.Arm("evoprune 40", "pruned", EvoPrune(keep=40), naive=naive), model, {})
        with live.path():
            assert kernels.fast() is not naive
        with live.path(plain=True):
            assert not kernels.fast()
        assert live.runs == ("naive" if naive else "fast")


def test_probes_come_off_again() -> None:
    maker, model = maker_of("llava-1.5-7b"), model_of("llava-1.5-7b")
    live = arms.Live(arms.Arm("evoprune 40", "pruned", EvoPrune(keep=40)), model, {})
    caller = Caller(maker, Shape(1), "encoder", CPU, torch.float32)

    def state() -> list[Any]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in live.model.modules()]
        return [hooks, set(live.handle._entry.tower.blocks[0].tap.__dict__), live.family.base.get_image_features]  # type: ignore[union-attr]

    caller.timed(live, 0)  # transformers puts up hooks of its own at the first call
    before = state()
    for call in (caller.counted, caller.remembered):
        call(live)
    caller.selection(live, 0)
    assert state() == before


@pytest.mark.parametrize(
    ("name", "shape", "keep"),
    [
        ("llava-1.5-7b", Shape(2, None, 2), 40),
        ("llava-next-7b", Shape(1), 38),
        ("llava-video-7b", Shape(None, 3), 12),
        ("llava-onevision-0.5b", Shape(1, None, 2), 40),
        ("qwen2-vl-2b", Shape(2), 9),
        ("qwen2.5-vl-7b", Shape(None, 4), 0.6),
        ("qwen3-vl-8b", Shape(None, 4, 2), 0.5),
        ("internvl3-1b", Shape(None, 2), 9),
        ("smolvlm-500m", Shape(1, None, 2), 2),
    ],
    ids=str,
)
def test_every_family_runs_from_pictures_to_tokens(name: str, shape: Shape, keep: int | float) -> None:
    pruners = [EvoPrune(keep=keep, schedule="mean"), UniformGrid(keep=keep)]
    plan = Plan(pruners, [shape], "all", Rounds(1), decode=2)
    found = result_of(name, plan)["cells"][0]["arms"]
    native = found[0]
    for arm in found:
        assert arm["error"] is None
        listed = [stage for stage in STAGES if stage != "selection" or arm["kind"] == "pruned"]
        assert list(arm["seconds"]) == listed
        assert arm["flops"]["whole"] > arm["flops"]["pre_llm"] + arm["flops"]["prefill"] > arm["flops"]["prefill"] > 0
    for arm in found[-2:]:
        assert arm["visual_tokens"] < native["visual_tokens"]
        assert arm["flops"]["prefill"] < native["flops"]["prefill"]


def test_the_language_model_sees_the_prompt_and_the_tokens_that_are_left() -> None:
    maker, model = maker_of("llava-1.5-7b"), model_of("llava-1.5-7b")
    caller = Caller(maker, Shape(2), "all", CPU, torch.float32, decode=1)
    for pruner, kept in ((None, 64), (UniformGrid(keep=16), 16)):
        live = arms.Live(arms.Arm("one", "pruned" if pruner else "native", pruner), model, {})
        lengths: list[int] = []
        hook = live.family.language_model.register_forward_pre_hook(
            lambda module, args, kwargs, lengths=lengths: lengths.append(kwargs["inputs_embeds"].shape[1]),
            with_kwargs=True,
        )
        caller.timed(live, 0)
        hook.remove()
        assert lengths == [2 * kept + 12, 1]


def test_inputs_are_the_same_for_every_arm_and_others_each_turn() -> None:
    first, second = maker_of("llava-1.5-7b"), maker_of("llava-1.5-7b")
    shape = Shape(1, None, 2)
    one, again, other = first.raw(shape, 0), second.raw(shape, 0), first.raw(shape, 1)
    assert all(a[0].tobytes() == b[0].tobytes() for a, b in zip(one, again, strict=True))
    assert one[0][0].tobytes() != one[1][0].tobytes() and one[0][0].tobytes() != other[0][0].tobytes()


def test_a_model_that_takes_no_videos_says_so() -> None:
    with pytest.raises(ValueError, match=r"LLaVA-1.5 is shown pictures here, no videos: give --images"):
        maker_of("llava-1.5-7b").check(Shape(None, 2))


def test_attention_on_a_cpu_is_counted_as_eager_is() -> None:
    query = torch.randn(1, 2, 5, 8)
    with counter() as found:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert found.get_total_flops() == 2 * 2 * (2 * 5 * 5 * 8)


def test_of_nested_spans_the_outermost_counts() -> None:
    found = counter()
    probe = Probe(FlopClock(found))
    with found:
        probe.begin("tower")
        probe.wrap("tower", torch.mm)(torch.ones(2, 3), torch.ones(3, 4))
        probe.wrap("merge", torch.mm)(torch.ones(2, 3), torch.ones(3, 4))
        probe.end("tower")
    assert len(probe.spans["tower"]) == 1
    assert (probe.spent("tower"), probe.spent("merge")) == (96, 48)


def test_a_peak_of_memory_is_seen_between_its_marks_only() -> None:
    if not MemoryClock.usable(CPU):
        pytest.skip("this system does not tell peaks of memory")
    clock, size = MemoryClock(CPU), 64 * 2**20
    begin = clock.mark()
    block = torch.ones(size // 4)
    middle = clock.mark()
    del block
    end = clock.mark()
    assert clock.between(begin, middle) > 0.9 * size
    assert clock.between(middle, end) < 0.5 * size
    assert clock.between(begin, end) == clock.between(begin, middle)


def test_a_mode_that_apply_does_not_know_is_refused_by_its_arm() -> None:
    live = arms.Live(arms.Arm("one", "pruned", EvoPrune(keep=40), mode="fast"), model_of("llava-1.5-7b"), {})
    assert live.error is not None and "fast" in live.error


def test_attention_with_fewer_key_heads_is_counted() -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    with counter() as found:
        torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    assert found.get_total_flops() == 2 * 2 * 4 * 5 * 7 * (8 + 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("stages", "mode"), [("all", "eager"), ("encoder", "cudagraph"), ("encoder", "compile")])
@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-onevision-7b"])
def test_on_a_gpu(name: str, stages: str, mode: str) -> None:
    device = torch.device("cuda")
    model = build(small(name), device=device, dtype=torch.bfloat16)
    maker = Maker(find(model), *processors(small(name)), size=small(name).picture, prompt=12)
    plan = Plan([EvoPrune(keep=16)], [Shape(1)], stages, Rounds(2, 1), mode=mode)
    head = facts(model=name, preset=None, stages=stages, dtype=model.dtype, device=device, attention="sdpa")
    (cell,) = bench(model, maker, plan, Sweep(None, plan.configuration(), head))["cells"]
    for arm in cell["arms"]:
        assert arm["error"] is None and arm["cpu_seconds"] is None
        assert arm["memory"]["encoder"] > 0 and arm["flops"]["encoder"] > 0
        if arm["kind"] == "pruned":
            assert arm["encoder_mode_ran"] == mode
