"""The embedded model in vLLM: its own encoder and the Transformers backend answer as plain transformers does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import evoprune
from evoprune.serve.options import Options, to_row
from evoprune.tiny.benchmark import examples, picture, prompt
from tests.serve.vllm import checkpoints, engines

KEEP = 49
SETTINGS = {"limit_mm_per_prompt": {"image": 4}, "enable_mm_embeds": True, "max_num_batched_tokens": 2048}


@pytest.fixture(scope="module", params=["llava", "backend"])
def served(request: pytest.FixtureRequest) -> Iterator[Any]:
    folder, *_ = checkpoints.embedded("image")
    llm = engines.engine(folder, engines.overrides(request.param, evoprune.EvoPrune(keep=KEEP)), **SETTINGS)
    yield llm
    engines.close(llm)


@pytest.fixture
def worker(served: Any) -> Iterator[Any]:
    """The model of an engine, whose options a test may change."""
    model = engines.model_of(served)
    options = model._options
    yield model
    model._options = options
    model.use(options)


def asked(number: int, keep: int | float | None = None, start: int = 0) -> list[dict[str, Any]]:
    """Return prompts on one picture each, all of them different."""
    _, _, processor = checkpoints.embedded("image")
    first = {one.scene: one for one in reversed(examples("test"))}
    found = []
    for scene in sorted(first)[start : start + number]:
        shown = picture("test", scene).image()
        found.append({"prompt": prompt(processor, first[scene].question), "multi_modal_data": {"image": shown}})
        if keep is not None:
            found[-1]["mm_processor_kwargs"] = {"evoprune_keep": keep}
    return found


def several(number: int) -> dict[str, Any]:
    """Return a prompt on several pictures."""
    shown = [picture("test", scene).image() for scene in range(number)]
    return {"prompt": "USER: " + "<image>\n" * number + "What is red? ASSISTANT:", "multi_modal_data": {"image": shown}}


def expected(prompts: list[dict[str, Any]], *pruners: Any) -> list[tuple[int, list[int]]]:
    _, model, processor = checkpoints.embedded("image")
    return engines.plain(model, processor, prompts, *pruners)


def pixels(number: int) -> torch.Tensor:
    """Return (B, 3, H, W) of the first pictures."""
    _, _, processor = checkpoints.embedded("image")
    shown = [picture("test", scene).image() for scene in range(number)]
    return processor.image_processor(shown, return_tensors="pt")["pixel_values"]


def encoded(model: Any, values: torch.Tensor, number: int, keep: int | float | None = None) -> torch.Tensor:
    """Return (B, K, D): what the worker makes of pictures for which the prompt has `number` placeholders each."""
    arguments = {"pixel_values": values, "evoprune_keep_image": torch.tensor([[*to_row(keep), number]] * len(values))}
    if type(model).__name__.startswith("Transformers"):
        arguments["num_image_patches"] = torch.ones(len(values), dtype=torch.long)
    with torch.inference_mode():
        return torch.stack(list(model.embed_multimodal(**arguments)))


def features(values: torch.Tensor, *pruners: Any) -> torch.Tensor:
    """Return (B, K, D) of plain transformers."""
    _, model, _ = checkpoints.embedded("image")
    with torch.inference_mode(), evoprune.apply(model, list(pruners)):
        return torch.stack(list(model.get_image_features(values).pooler_output))


def test_answers_are_those_of_transformers(served: Any) -> None:
    prompts = [*asked(10), several(2), several(3)]
    assert engines.answers(served, prompts) == expected(prompts, evoprune.EvoPrune(keep=KEEP))


def test_budgets_of_requests_mix_in_one_batch_and_are_cached_apart(served: Any) -> None:
    budgets = [None, 16, 0.5, 1.0, 64, 7, 196, 16]
    prompts = [asked(1, keep)[0] for keep in budgets] + [asked(1, keep, start=1)[0] for keep in budgets]
    pruners = [evoprune.EvoPrune(keep=KEEP if keep is None else keep) for keep in budgets] * 2
    wanted = [expected([one], pruner)[0] for one, pruner in zip(prompts, pruners, strict=True)]
    assert engines.answers(served, prompts) == wanted
    again = [5, 3, 0, 1, 2, 15, 8, 9, 4, 6]  # from the caches of prefixes, processors and features
    assert engines.answers(served, [prompts[i] for i in again]) == [wanted[i] for i in again]
    served.reset_prefix_cache()
    assert engines.answers(served, prompts) == wanted
    assert len({length for length, _ in wanted[:8]}) == 6  # 16 twice, and all tokens as 1.0 and as 196


def test_a_budget_of_everything_is_the_stock_model(served: Any, worker: Any) -> None:
    prompts = asked(4, 1.0)
    assert engines.answers(served, prompts) == expected(prompts)
    values = pixels(3)
    kept = encoded(worker, values, 196, 1.0)
    worker._hooks.remove()
    worker._hooks = None
    arguments = {"pixel_values": values, "num_image_patches": torch.ones(3, dtype=torch.long)}
    with torch.inference_mode():
        stock = super(_pruned(worker), worker).embed_multimodal(**arguments)
    assert torch.equal(kept, torch.stack(list(stock)))


def _pruned(model: Any) -> Any:
    return next(one for one in type(model).__mro__ if one.__name__ == "Pruned")


METHODS = {
    "evoprune": {}, "evoprune-keys": {"method": "evoprune", "features": "keys"}, "tome": {}, "fastervlm": {},
    "visionzip": {}, "visionzip-cls": {"method": "visionzip", "cls": True}, "divprune": {},
    "divprune-features": {"method": "divprune", "space": "features"}, "idpruner": {}, "random": {}, "grid": {},
    "pool": {}, "first": {},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("keep", [49, 0.25])
def test_every_method_makes_the_features_of_transformers(worker: Any, name: str, keep: int | float) -> None:
    pruner = evoprune.Pruner.from_dict({"method": name, "keep": keep, **METHODS[name]})
    worker._options = Options.of([pruner])
    values = pixels(3)
    wanted = features(values, pruner)
    torch.testing.assert_close(encoded(worker, values, 49), wanted, atol=1e-4, rtol=1e-4)
    assert wanted.shape[1] == 49


def test_vispruner_is_shown_what_transformers_shows(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its pairs go by the ranks of all tokens: a difference in the last digit of two of them makes another choice.
    pruner, values = evoprune.VisPruner(keep=49), pixels(3)
    views = []
    select = evoprune.VisPruner.select
    monkeypatch.setattr(
        evoprune.VisPruner, "select", lambda self, view, keep: views.append(view) or select(self, view, keep)
    )
    worker._options = Options.of([pruner])
    assert encoded(worker, values, 49).shape == features(values, pruner).shape
    ours, theirs = views
    torch.testing.assert_close(ours.features, theirs.features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.importance, theirs.importance, atol=1e-6, rtol=1e-4)


def test_two_stages_act_one_after_the_other(worker: Any) -> None:
    pruners = [evoprune.EvoPrune(keep=100), evoprune.DivPrune(keep=20)]
    worker._options = Options.of(pruners)
    values = pixels(2)
    torch.testing.assert_close(encoded(worker, values, 20), features(values, *pruners), atol=1e-4, rtol=1e-4)


def test_a_step_of_many_pictures_goes_through_the_tower_in_parts(served: Any, worker: Any) -> None:
    entering: list[int] = []
    block = worker.family().blocks[0]
    hook = block.register_forward_pre_hook(
        lambda module, args, kwargs: entering.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    prompts = asked(16, start=40)
    try:
        found = engines.answers(served, prompts)
    finally:
        hook.remove()
    assert found == expected(prompts, evoprune.EvoPrune(keep=KEEP))
    most = SETTINGS["max_num_batched_tokens"] // 196
    assert max(entering) == most and sum(entering) >= most + 1  # one step had more than go through at a time


def test_parts_make_the_features_of_the_whole(worker: Any) -> None:
    values = pixels(7)
    whole = encoded(worker, values, KEEP)
    before, worker._most = worker._most, 2 * 196
    try:
        worker.use(Options.of([evoprune.FasterVLM(keep=1)]))  # so that the next one begins anew
        parts = encoded(worker, values, KEEP)
        assert len(worker.state.runs["image"]) == 4  # 7 pictures by 2
    finally:
        worker._most = before
        worker.use(Options.of([evoprune.FasterVLM(keep=1)]))
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


def test_sizes_bias_the_attention_whatever_backend_vllm_has(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    other, values = Options.of([evoprune.FasterVLM(keep=1)]), pixels(3)
    worker._options = Options.of([evoprune.ToMe(keep=KEEP)])
    whole = encoded(worker, values, KEEP)
    worker.use(other)  # so that the next one begins anew
    with monkeypatch.context() as patched:
        for name, module in worker.named_modules():
            if "vision_tower" in name and hasattr(module, "attn_backend"):
                patched.setattr(module, "attn_backend", AttentionBackendEnum.FLASH_ATTN)
        torch.testing.assert_close(encoded(worker, values, KEEP), whole, atol=1e-5, rtol=1e-5)
    worker.use(other)


@pytest.mark.parametrize("number", [KEEP - 1, KEEP + 1])
def test_another_number_of_rows_than_of_placeholders_is_an_error(worker: Any, number: int) -> None:
    with pytest.raises(RuntimeError, match=rf"made {KEEP} tokens of a image for which the prompt has {number}"):
        encoded(worker, pixels(2), number)


def test_features_that_a_client_made_keep_their_number(served: Any) -> None:
    _, model, _ = checkpoints.embedded("image")
    with torch.inference_mode():
        native = model.get_image_features(pixels(3)).pooler_output
    texts = [one["prompt"] for one in asked(3)]
    cut = [native[0], native[1][:30], native[2][:7]]
    made = [{"prompt": text, "multi_modal_data": {"image": one[None]}} for text, one in zip(texts, cut, strict=True)]
    shown = asked(3)
    mixed = [one for pair in zip(made, shown, strict=True) for one in pair]
    found = engines.answers(served, mixed)
    assert found[1::2] == expected(shown, evoprune.EvoPrune(keep=KEEP))
    lengths = [length for length, _ in found]
    assert [lengths[i] - lengths[i + 1] for i in (0, 2, 4)] == [196 - KEEP, 30 - KEEP, 7 - KEEP]
    assert found[0][1] == expected(shown[:1])[0][1]  # all features of a picture are the picture
    assert [engines.answers(served, [one])[0] for one in made] == found[0::2]  # alone as in company
