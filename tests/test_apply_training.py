"""Gradients, checkpointing, adapters and offloading hooks together with a pruner."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune.apply import apply
from evoprune.pruners import Downsample, EvoPrune, Random
from tests import builders

TEXTS = ["USER: <image> what is this ? ASSISTANT:", "a <image> b <image> what"]


@pytest.fixture
def x() -> dict[str, torch.Tensor]:
    return builders.inputs(TEXTS, [1, 2, 3])


def gradients(model: Any, x: Any, steps: int = 1) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = sum(model(**x, labels=x["input_ids"]).loss for _ in range(steps))
    loss.backward()  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "pruner", [EvoPrune(16), EvoPrune(16, positions="original"), Random(16), Downsample(16)], ids=repr
)
def test_a_backward_pass_gives_finite_gradients(x: Any, pruner: Any) -> None:
    model = builders.model().train()
    with apply(model, pruner):
        found = gradients(model, x)
    assert all(value.isfinite().all() for value in found.values())
    layers = [f"model.vision_tower.encoder.layers.{i}.mlp.fc1.weight" for i in range(5)]
    assert all(float(found[name].abs().sum()) > 0 for name in layers)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("settings", [{}, {"proportional_attention": True}], ids=str)
def test_gradient_checkpointing_gives_the_same_gradients(x: Any, reentrant: bool, after: bool, settings: Any) -> None:
    model = builders.model().train()
    with apply(model, EvoPrune(16, **settings)):
        expected = gradients(model, x, steps=2)
    checkpointing = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    if not after:
        model.gradient_checkpointing_enable(**checkpointing)
    if reentrant:
        model.enable_input_require_grads()
    with apply(model, EvoPrune(16, **settings)):
        if after:
            model.gradient_checkpointing_enable(**checkpointing)
        found = gradients(model, x, steps=2)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("inner", [False, True])
def test_a_lora_model_is_pruned_and_trained(x: Any, inner: bool) -> None:
    peft = pytest.importorskip("peft")
    base = builders.model()
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "fc1"], r=2)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        before = model(**x).logits
    with apply(base if inner else model, EvoPrune(16)) as handle:
        with pytest.raises(ValueError, match="applied already"):
            apply(model if inner else base, EvoPrune(16))
        out = model.generate(**x, max_new_tokens=3)
        assert torch.equal(out[:, :-3], x["input_ids"]) and handle.stats.visual_tokens == (16,) * 3
        model.train()
        found = gradients(model, x)
        assert found and all("lora" in name and value.isfinite().all() for name, value in found.items())
        model.eval()
    with torch.no_grad():
        assert torch.equal(model(**x).logits, before)


def test_accelerate_hooks_stay_in_force(x: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = builders.model()
    with torch.no_grad(), apply(model, EvoPrune(16)):
        expected = model(**x).logits
    model = accelerate.cpu_offload(model, execution_device="cpu")
    before = model.__dict__["forward"]
    with torch.no_grad(), apply(model, EvoPrune(16)) as handle:
        torch.testing.assert_close(model(**x).logits, expected, atol=1e-6, rtol=1e-6)
        assert handle.stats.visual_tokens == (16,) * 3
        assert model.generate(**x, max_new_tokens=2).shape[1] == x["input_ids"].shape[1] + 2
    assert model.__dict__["forward"] is before


def test_hooks_that_accelerate_adds_after_apply_survive_remove(x: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = builders.model()
    with torch.no_grad():
        plain = model(**x).logits
        handle = apply(model, EvoPrune(16))
        pruned = model(**x).logits
        model = accelerate.cpu_offload(model, execution_device="cpu")
        torch.testing.assert_close(model(**x).logits, pruned, atol=1e-6, rtol=1e-6)
        handle.remove()
        torch.testing.assert_close(model(**x).logits, plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(x: Any, dtype: torch.dtype) -> None:
    model = builders.model().to(dtype)
    for pruner in (EvoPrune(16, proportional_attention=True), Random(16), Downsample(16)):
        with torch.no_grad(), apply(model, pruner):
            logits = model(**x).logits
            assert logits.dtype == dtype and logits.isfinite().all()
            model.generate(**x, max_new_tokens=2)
