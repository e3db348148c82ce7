"""Engines in this process, and what transformers answers to the same prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

import evoprune
from evoprune.serve.vllm import BACKEND, NATIVE, PREFIX
from tests.serve.vllm import checkpoints

ARCHITECTURES = {name: PREFIX + architecture for architecture, name in NATIVE.items()} | {"backend": PREFIX + BACKEND}
SETTINGS = {
    "enforce_eager": True,
    "block_size": 32,
    "max_model_len": 512,
    "dtype": "float32",
    "seed": 0,
    "max_num_seqs": 16,
    "disable_log_stats": True,
}
TOKENS = 8  # generated for each prompt


def overrides(architecture: str, *pruners: evoprune.Pruner) -> dict[str, Any]:
    """Return `hf_overrides` for one of `ARCHITECTURES`, or for vLLM's own class of that name without pruners."""
    if not pruners:
        return {}
    return {"architectures": [ARCHITECTURES[architecture]], "evoprune": [one.to_dict() for one in pruners]}


def engine(folder: str, hf_overrides: Mapping[str, Any], **settings: Any) -> Any:
    """Return an engine that lives in this process."""
    from vllm import LLM

    checkpoints.ready()
    return LLM(folder, hf_overrides=dict(hf_overrides), **{**SETTINGS, **settings})


def close(llm: Any) -> None:
    """Give the memory of an engine back."""
    llm.llm_engine.engine_core.shutdown()


def model_of(llm: Any) -> Any:
    """Return the model in an engine's worker."""
    return llm.apply_model(lambda model: model)[0]


def answers(llm: Any, prompts: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[int]]]:
    """Return for each prompt its length in tokens, and the greedy answer."""
    from vllm import SamplingParams

    greedy = SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True)
    outputs = llm.generate([dict(one) for one in prompts], greedy, use_tqdm=False)
    return [(len(one.prompt_token_ids), list(one.outputs[0].token_ids)) for one in outputs]


def plain(
    model: Any, processor: Any, prompts: Sequence[Mapping[str, Any]], *pruners: Any
) -> list[tuple[int, list[int]]]:
    """Return the same of transformers, under `evoprune.apply` where there are pruners."""
    found = []
    with undecorated(model), evoprune.apply(model, list(pruners)) if pruners else contextlib.nullcontext() as handle:
        for prompt in prompts:
            data = {f"{name}s": value if isinstance(value, list) else [value]
                    for name, value in prompt["multi_modal_data"].items()}  # fmt: skip
            inputs = processor(text=prompt["prompt"], return_tensors="pt", add_special_tokens=False, **data)
            ids = inputs["input_ids"]
            with torch.no_grad():
                out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
            length = ids.shape[1]
            if handle is not None:
                marks = torch.tensor([t for t in (model.config.image_token_id, video_token(model)) if t is not None])
                length += sum(handle.stats.visual_tokens) - int(torch.isin(ids, marks).sum())
            found.append((length, out[0, ids.shape[1] :].tolist()))
    return found


@contextlib.contextmanager
def undecorated(model: Any) -> Iterator[None]:
    """Take back what vLLM's Transformers backend does to classes of transformers, as long as they run by themselves."""
    classes = {type(module) for module in model.modules() if "__call__" in type(module).__dict__}
    wrapped = {one: one.__call__ for one in classes}
    for one in classes:
        del one.__call__
    try:
        yield
    finally:
        for one, call in wrapped.items():
            one.__call__ = call


def video_token(model: Any) -> int | None:
    """Return the placeholder of videos, None where there is none."""
    return getattr(model.config, "video_token_id", None)
