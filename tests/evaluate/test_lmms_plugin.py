"""``--model evoprune`` inside lmms-eval, on a tiny random LLaVA and a task of local files."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")
pytest.importorskip("decord", reason="llava_hf of lmms-eval needs decord")

from evoprune.evaluate.lmms import manifests
from evoprune.evaluate.lmms import models as lmms_models
from evoprune.evaluate.lmms.guard import Unseen
from evoprune.evaluate.lmms.watch import Watch
from evoprune.pruners import FastV, UniformGrid
from tests.evaluate import lmms_case as case
from tests.evaluate.lmms_case import Row
from tests.families.case import Picture, Video

PICTURES = [Row(f"what is {i}?", [Picture(32, 32, i)]) for i in range(4)]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    return case.save("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, two in one prompt, and a prompt without."""
    rows = [*PICTURES, Row("which?", [Picture(32, 32, 7), Picture(32, 32, 8)]), Row("none?")]
    return case.write_task(tmp_path_factory.mktemp("task"), rows)


@pytest.fixture(scope="module")
def stock(llava: str, folder: Path) -> list[str]:
    """Answers of lmms-eval's own class, untouched; it takes no prompt without pictures."""
    from lmms_eval.models import get_model

    lm = get_model("llava_hf")(pretrained=llava, device="cpu", device_map="cpu")
    return case.texts(case.evaluate(lm, folder, limit=5))


def test_lmms_eval_finds_both_classes() -> None:
    from lmms_eval.models import get_model
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    for one in manifests():
        registry.register_manifest(one)
    assert registry.get_model_class("evoprune") is lmms_models.EvoPruneChat is get_model("evoprune")
    assert registry.get_model_class("evoprune", force_simple=True) is lmms_models.EvoPruneSimple


@pytest.mark.parametrize(
    ("asked", "full", "short"), [("none", 76.8, 76.8), ("grid,keep=all", 76.8, 76.8), ("grid,keep=16", 76.8, 19.2)]
)
def test_the_answers_are_the_stock_class_s_own(
    llava: str, folder: Path, stock: list[str], asked: str, full: float, short: float
) -> None:
    lm = case.build(f"pretrained={llava},method={asked}")
    assert type(lm).__module__ == "lmms_eval.models.chat.llava_hf"
    results = case.evaluate(lm, folder)
    assert results["config"]["model_backend"].startswith("lmms_eval.models.chat.llava_hf.LlavaHf")
    said, told = case.texts(results), results["throughput"]
    assert (said[:5] == stock) == (full == short)
    assert told["avg_visual_tokens_full"] == full and told["avg_visual_tokens"] == short
    assert told["avg_prompts"] == 6 and told["avg_text_only_prompts"] == 1 and told["avg_empty_answers"] == 0
    assert told["avg_prefill_milliseconds"] > 0


def test_plain_text_prompts_prune_too(llava: str, tmp_path: Path) -> None:
    folder = case.write_task(tmp_path, PICTURES[:2])
    texts = {}
    for keep in ("all", 16):
        lm = case.build(f"pretrained={llava},method=grid,keep={keep}", simple=True)
        assert type(lm).__module__ == "lmms_eval.models.simple.llava_hf"
        results = case.evaluate(lm, folder)
        texts[keep] = case.texts(results)
    assert results["throughput"]["avg_visual_tokens"] == 16 and texts["all"] != texts[16]


@pytest.mark.parametrize("simple", [False, True])
def test_videos_are_read_by_the_class_s_own_reader(tmp_path: Path, simple: bool) -> None:
    model = case.save("llava_onevision", tmp_path / "model")
    folder = case.write_task(tmp_path / "task", [Row("what?"), Row("and?")])
    clips = [case.write_clip(folder / f"{i}.mkv", Video(4, 32, 32, i)) for i in range(2)]
    rows = [f'{{"question": "what?", "answer": "a", "shown": ["{clip}"]}}' for clip in clips]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    lm = case.build(f"pretrained={model},method=grid,keep=9,max_frames_num=3", simple=simple)
    told = case.evaluate(lm, folder)["throughput"]
    assert (told["avg_visual_tokens_full"], told["avg_visual_tokens"]) == (16 * 3 + 1, 9 * 3 + 1)


def test_an_error_in_the_pruner_ends_the_run(llava: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise KeyError("broken on purpose")

    monkeypatch.setattr(UniformGrid, "select", broken)
    with pytest.raises(KeyError, match="broken on purpose"):
        case.evaluate(case.build(f"pretrained={llava},method=grid,keep=16"), folder)
    assert len(calls) == 1  # at once, and no answer after it


def test_an_error_reaches_the_exit_code_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmms_eval.__main__", case)  # its command line has been imported
    with pytest.raises(SystemExit, match="error: unknown method 'gird'"):
        case.build("pretrained=x,method=gird,keep=16")


def test_the_response_cache_hits_for_the_same_run_alone(llava: str, folder: Path, tmp_path: Path) -> None:
    def run(keep: int) -> tuple[list[str], int]:
        arguments = f"pretrained={llava},method=grid,keep={keep}"
        results = case.evaluate("evoprune", folder, model_args=arguments, use_cache=str(tmp_path), batch_size=1)
        return case.texts(results), int(results.get("throughput", {}).get("avg_prompts", 0))

    first, asked = run(16)
    assert asked == 6
    again, asked = run(16)
    assert again == first and asked == 0
    other, asked = run(4)
    assert other != first and asked == 6


def test_likelihoods_are_refused_under_a_pruner(llava: str) -> None:
    with pytest.raises(NotImplementedError, match="method=none"):
        case.build(f"pretrained={llava},method=grid,keep=16").loglikelihood([])


@pytest.fixture
def bare(llava: str) -> Iterator[Any]:
    lm = lmms_models.build("llava_hf", {"pretrained": llava})
    yield lm
    lm.clean()


def test_a_pruner_without_effect_ends_the_run(bare: Any, folder: Path) -> None:
    import evoprune

    handle = evoprune.apply(bare.model, UniformGrid(16))
    handle.remove()  # as if the class called another model
    watch = Watch(bare, handle).install(frees=False)
    with pytest.raises(RuntimeError, match="64 visual tokens was answered unpruned"):
        case.evaluate(bare, folder)
    watch.close()


def test_a_share_that_drops_nothing_of_few_tokens_is_no_error(bare: Any, folder: Path) -> None:
    import evoprune

    for pruner in (UniformGrid(0.999), FastV(0.999, layer=1)):  # 64 tokens, rounded up
        with evoprune.apply(bare.model, pruner) as handle:
            watch = Watch(bare, handle).install(frees=False)
            case.evaluate(bare, folder, limit=1)
            watch.close()
        assert watch.seen.short == watch.seen.full == 64 and watch.seen.meant == 0


def test_a_plan_that_was_not_carried_out_ends_the_run(bare: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evoprune
    from evoprune.evaluate.lmms import seen

    monkeypatch.setattr(seen, "_meant", lambda handle: True)
    with evoprune.apply(bare.model, UniformGrid(0.999)) as handle:
        watch = Watch(bare, handle).install(frees=False)
        with pytest.raises(RuntimeError, match=re.escape("grid with keep=0.999 pruned nothing of 1 prompts")):
            case.evaluate(bare, folder, limit=1)
        watch.close()
    with evoprune.apply(bare.model, UniformGrid(16)) as handle:
        monkeypatch.undo()
        watch = Watch(bare, handle).install(frees=False)
        case.evaluate(bare, folder, limit=2)
        watch.close()
    assert watch.seen.meant == 2


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("left", [0, 2])  # prompts that keep their pictures, of five
def test_pictures_that_never_reach_the_model_end_the_run(
    bare: Any, folder: Path, pruned: bool, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evoprune

    whole, calls = type(bare._image_processor).__call__, []

    def blind(self: Any, *args: Any, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        calls.extend([1] if images else [])
        if len(calls) > left:
            images, text = None, text.replace("<image>", "")
        return whole(self, *args, images=images, text=text, **kwargs)

    monkeypatch.setattr(type(bare._image_processor), "__call__", blind)
    with ExitStack() as stack:
        handle = stack.enter_context(evoprune.apply(bare.model, UniformGrid(16))) if pruned else None
        watch = Watch(bare, handle).install(frees=False)
        stack.callback(watch.close)
        with pytest.raises(Unseen, match="LlavaHf answered 6 requests without giving pictures"):
            case.evaluate(bare, folder)


def test_a_class_that_goes_past_the_model_ends_the_run(
    bare: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evoprune

    monkeypatch.setattr(type(bare), "generate_until", lambda self, requests: ["a"] * len(requests))
    with evoprune.apply(bare.model, UniformGrid(16)) as handle:
        watch = Watch(bare, handle).install(frees=False)
        with pytest.raises(RuntimeError, match="grid pruned nothing: LlavaHf answered 6 requests"):
            case.evaluate(bare, folder)
        watch.close()


def test_prompts_without_pictures_alone_are_no_error(bare: Any, tmp_path: Path) -> None:
    import evoprune

    with evoprune.apply(bare.model, UniformGrid(16)) as handle:
        watch = Watch(bare, handle).install(frees=False)
        case.evaluate(bare, case.write_task(tmp_path, [Row("none?")]))
        watch.close()
    assert watch.seen.prompts == 1 and watch.seen.pictured == 0 and watch.seen.tokens is None
    assert "generate" not in bare.model.__dict__ and "generate_until" not in bare.__dict__


def test_clean_frees_the_pruned_model(llava: str, folder: Path) -> None:
    lm = case.build(f"pretrained={llava},method=grid,keep=16")
    model = weakref.ref(lm.model)
    case.evaluate(lm, folder, limit=1)
    gc.collect()
    assert model() is None


def test_blank_answers_are_counted(bare: Any, folder: Path) -> None:
    bare.model.lm_head.weight.data.zero_()  # every answer is the first token, which is padding
    watch = Watch(bare).install(frees=False)
    results = case.evaluate(bare, folder)
    watch.close()
    assert results["throughput"]["avg_empty_answers"] == 6 and set(case.texts(results)) == {""}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "pretrained=x,base=llava_hff",
            ".llava_hff': did you mean 'llava_hf'\\? choose auto, llava_hf, qwen",
        ),
        ("pretrained=x,base=evoprune", "unknown base 'evoprune'"),
        ("pretrained=x,max_frame_num=2", "did you mean 'max_frames_num'"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_built(arguments: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        case.build(arguments)
    with pytest.raises(ValueError, match="answers one question at a time, not 4"):
        case.build("pretrained=x", batch=4)


LLAVA, QWEN = {"device": "cuda", "device_map": ""}, {"device": "cuda", "device_map": "auto"}


@pytest.mark.parametrize(
    ("takes", "given", "processes", "gpu", "placed"),
    [
        (LLAVA, {}, 1, True, {"device_map": "cuda"}),
        (LLAVA, {"device": "cuda:1"}, 1, True, {"device": "cuda:1", "device_map": "cuda:1"}),
        (LLAVA, {"device_map": "auto"}, 1, True, {"device_map": "auto"}),
        (LLAVA, {}, 2, True, {}),  # each process takes its own
        (QWEN, {}, 1, True, {}),
        (QWEN, {"device": "cpu"}, 1, True, {"device": "cpu", "device_map": "cpu"}),
        (LLAVA, {}, 2, False, {"device": "cpu", "device_map": "cpu"}),
        (QWEN, {}, 1, False, {"device": "cpu", "device_map": "cpu"}),
        ({}, {}, 1, False, {}),
    ],
)
def test_the_model_is_placed_where_transformers_takes_it(
    takes: dict[str, str],
    given: dict[str, str],
    processes: int,
    gpu: bool,
    placed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert lmms_models._placed(takes, dict(given)) == placed


def test_answers_that_are_missing_end_the_run(bare: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bare), "generate_until", lambda self, requests: ["a"])
    watch = Watch(bare).install(frees=False)
    with pytest.raises(RuntimeError, match="LlavaHf gave 1 answers to 6 requests"):
        case.evaluate(bare, folder)
    watch.close()
