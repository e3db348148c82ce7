"""LLaVA-NeXT and LLaVA-OneVision with random weights: pictures of different numbers of tiles, and clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from vllm.exceptions import VLLMClientError

import evoprune
from evoprune.serve.options import Options
from tests.families.case import Picture, Video, draw
from tests.serve.vllm import checkpoints, engines

CASES = [("next", "llava_next", 16), ("next", "backend", 16), ("onevision", "llava_onevision", 12),
         ("onevision", "backend", 12)]  # fmt: skip
SIZES = [(20, 90), (32, 32), (90, 20), (17, 19), (61, 61), (28, 28)]  # from two tiles to ten


class Served:
    """An engine with the checkpoint that it serves."""

    def __init__(self, kind: str, architecture: str, keep: int):
        self.kind, self.keep = kind, keep
        folder, self.model, self.processor = checkpoints.random(kind)
        pruner = evoprune.EvoPrune(keep=keep)
        self.llm = engines.engine(
            folder, engines.overrides(architecture, pruner), max_model_len=1024, enable_prefix_caching=False
        )

    def answers(self, prompts: Sequence[Any]) -> list[tuple[int, list[int]]]:
        return engines.answers(self.llm, prompts)

    def expected(self, prompts: Sequence[Any], *pruners: Any) -> list[tuple[int, list[int]]]:
        return engines.plain(self.model, self.processor, prompts, *pruners)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    one = Served(*request.param)
    yield one
    engines.close(one.llm)


def image(size: tuple[int, int], seed: int = 0, keep: int | float | None = None) -> dict[str, Any]:
    """Return a prompt on a picture of so many pixels."""
    found: dict[str, Any] = {
        "prompt": "USER: <image> what is this ? ASSISTANT:",
        "multi_modal_data": {"image": draw(Picture(*size, seed))},
    }
    return found if keep is None else {**found, "mm_processor_kwargs": {"evoprune_keep": keep}}


def several(sizes: Sequence[tuple[int, int]], seed: int = 0) -> dict[str, Any]:
    """Return a prompt on several pictures."""
    shown = [draw(Picture(*size, seed + i)) for i, size in enumerate(sizes)]
    return {"prompt": "a " + "<image> and " * len(sizes) + "what ?", "multi_modal_data": {"image": shown}}


def clip(frames: int) -> dict[str, Any]:
    """Return a prompt on a video."""
    return {"prompt": "look <video> what ?", "multi_modal_data": {"video": draw(Video(frames, 40, 50, frames))}}


def test_answers_are_those_of_transformers(served: Served) -> None:
    prompts = [image(size, seed) for seed, size in enumerate(SIZES)]
    if served.kind == "onevision":
        prompts = [one for pair in zip(prompts, map(clip, (2, 1, 3, 5, 8, 4)), strict=True) for one in pair]
    found = served.answers(prompts)
    assert found == served.expected(prompts, evoprune.EvoPrune(keep=served.keep))
    assert len({length for length, _ in found}) >= 3


def test_pictures_of_one_request_are_padded_to_as_many_tiles_and_lose_the_padding(served: Served) -> None:
    apart = [several(SIZES[:2]), several(SIZES[3:6], 7)]
    found = served.answers(apart)
    if served.kind == "next":
        assert found == served.expected(apart, evoprune.EvoPrune(keep=served.keep))
    else:  # transformers cuts a picture into tiles only where it is alone: vLLM always does
        tiles = [4 + 5, 2 + 10 + 2]
        texts = [len("a  and  and what ?"), len("a  and  and  and what ?")]
        wanted = [text + n * served.keep + k for text, n, k in zip(texts, tiles, (2, 3), strict=True)]
        assert [length for length, _ in found] == wanted
        one_by_one = [served.answers([one])[0] for one in apart]
        assert one_by_one == found


@pytest.mark.parametrize("name", ["divprune", "fastervlm", "tome", "visionzip", "pool", "idpruner"])
def test_other_methods_pick_in_all_tiles(served: Served, name: str) -> None:
    worker = engines.model_of(served.llm)
    keep = {"next": 16, "onevision": 9}[served.kind]
    pruner = evoprune.Pruner.from_dict({"method": name, "keep": keep})
    before = worker._options
    prompts = [image(size, 100 + sum(map(ord, name)) + i) for i, size in enumerate(SIZES[:4])]
    wanted = served.expected(prompts, pruner)
    for one in prompts:
        one["mm_processor_kwargs"] = {"evoprune_keep": keep}
    worker._options = Options.of([pruner])
    try:
        assert served.answers(prompts) == wanted
    finally:
        worker._options = before


def test_budgets_of_requests_mix_in_one_batch(served: Served) -> None:
    one, another = {"next": (24, 40), "onevision": (9, 8)}[served.kind]
    budgets = [None, one, 1.0, 0.5, another, 1.0]
    prompts = [image(size, 50 + i, keep) for i, (size, keep) in enumerate(zip(SIZES, budgets, strict=True))]
    pruners = [evoprune.EvoPrune(keep=served.keep if keep is None else keep) for keep in budgets]
    wanted = [served.expected([one], pruner)[0] for one, pruner in zip(prompts, pruners, strict=True)]
    assert served.answers(prompts) == wanted
    assert served.answers(prompts) == wanted
    assert wanted[2] == served.expected(prompts[2:3])[0]


def test_clips_and_pictures_of_one_prompt(served: Served) -> None:
    if served.kind == "next":  # it has no videos
        with pytest.raises(VLLMClientError, match="At most 0 video"):
            served.answers([{"prompt": "<image>", "multi_modal_data": {"video": draw(Video(2, 40, 30))}}])
        return
    prompts = [
        {
            "prompt": "see <image> then <video> what ?",
            "multi_modal_data": {"image": draw(Picture(20, 90, 7)), "video": draw(Video(frames, 40, 30, frames))},
        }
        for frames in (3, 2)
    ]
    assert served.answers(prompts) == served.expected(prompts, evoprune.EvoPrune(keep=served.keep))
