"""A prompt that does not fit into one step: chunked prefill, without caches, changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import evoprune
from tests.serve.vllm import checkpoints, engines, test_image

STEP = 100  # tokens


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    folder, *_ = checkpoints.embedded("image")
    llm = engines.engine(
        folder, engines.overrides("llava", evoprune.EvoPrune(keep=49)), enable_chunked_prefill=True,
        enable_prefix_caching=False, limit_mm_per_prompt={"image": 4}, max_num_batched_tokens=STEP, max_num_seqs=4,
        mm_processor_cache_gb=0,
    )  # fmt: skip
    yield llm
    engines.close(llm)


def test_chunked_prefill_without_caches_changes_no_answer(served: Any) -> None:
    prompts = [test_image.several(4), *test_image.asked(3), test_image.several(3), *test_image.asked(2, 64, start=3)]
    wanted = test_image.expected(prompts[:5], evoprune.EvoPrune(keep=49))
    wanted += test_image.expected(prompts[5:], evoprune.EvoPrune(keep=64))
    assert engines.answers(served, prompts) == wanted
    assert engines.answers(served, prompts) == wanted
    assert max(length for length, _ in wanted) > STEP


def test_one_picture_at_a_time_goes_through_the_tower(served: Any) -> None:
    worker = engines.model_of(served)
    entering: list[int] = []
    hook = worker.family().blocks[0].register_forward_pre_hook(lambda module, args: entering.append(len(args[0])))
    try:
        engines.answers(served, [test_image.several(4)])
    finally:
        hook.remove()
    assert entering == [1, 1, 1, 1]  # 196 patches are more than a step has tokens
