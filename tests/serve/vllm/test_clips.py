"""The embedded video model: clips and pictures, in vLLM's own encoder and in the Transformers backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import evoprune
from evoprune.tiny.benchmark import picture
from tests.serve.vllm import checkpoints, engines

KEEP = 12  # of the 25 tokens of a frame; a picture's two tiles keep as many each


@pytest.fixture(scope="module", params=["llava_onevision", "backend"])
def served(request: pytest.FixtureRequest) -> Iterator[Any]:
    folder, *_ = checkpoints.embedded("video")
    overrides = engines.overrides(request.param, evoprune.EvoPrune(keep=KEEP))
    llm = engines.engine(folder, overrides, max_model_len=1024)
    yield llm
    engines.close(llm)


def clip(frames: int, seed: int, keep: int | float | None = None) -> dict[str, Any]:
    scenes = np.random.default_rng(seed).integers(0, 300, frames)
    shown = np.stack([np.asarray(picture("test", int(scene)).image().resize((80, 80))) for scene in scenes])
    found: dict[str, Any] = {
        "prompt": "USER: <video>\nWhich digit moves left? ASSISTANT:", "multi_modal_data": {"video": shown},
    }  # fmt: skip
    return found if keep is None else {**found, "mm_processor_kwargs": {"evoprune_keep": keep}}


def image(scene: int, width: int, height: int) -> dict[str, Any]:
    shown = picture("test", scene).image().resize((width, height))
    return {"prompt": "USER: <image>\nWhat digit is red? ASSISTANT:", "multi_modal_data": {"image": shown}}


def expected(prompts: list[dict[str, Any]], *pruners: Any) -> list[tuple[int, list[int]]]:
    _, model, processor = checkpoints.embedded("video")
    return engines.plain(model, processor, prompts, *pruners)


def test_answers_are_those_of_transformers(served: Any) -> None:
    prompts = [clip(8, 0), image(0, 80, 80), clip(3, 1), image(1, 112, 100), clip(5, 2), clip(1, 3), image(2, 100, 130)]
    found = engines.answers(served, prompts)
    assert found == expected(prompts, evoprune.EvoPrune(keep=KEEP))
    text = len(found) and found[0][0] - (8 * KEEP + 1)
    assert [found[i][0] - text for i in (2, 4, 5)] == [3 * KEEP + 1, 5 * KEEP + 1, KEEP + 1]


def test_budgets_of_clips_mix_in_one_batch_and_are_cached_apart(served: Any) -> None:
    budgets = [None, 4, 0.5, 1.0, 25, 4]
    prompts = [clip(4, 5, keep) for keep in budgets]
    pruners = [evoprune.EvoPrune(keep=KEEP if keep is None else keep) for keep in budgets]
    wanted = [expected([one], pruner)[0] for one, pruner in zip(prompts, pruners, strict=True)]
    assert engines.answers(served, prompts) == wanted
    assert engines.answers(served, prompts[::-1]) == wanted[::-1]
    assert wanted[3] == wanted[4] == expected(prompts[3:4])[0]
