"""``base=auto``: our own class for models and batches that lmms-eval has none for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")

from evoprune.evaluate.lmms import prompts as lmms_prompts
from evoprune.evaluate.lmms.auto import AutoModel
from evoprune.evaluate.lmms.generation import settings, until
from tests.evaluate import lmms_case as case
from tests.evaluate.lmms_case import Row
from tests.families.case import Picture, Video

ROWS = [
    Row("a?", [Picture(32, 32, 1)]),
    Row("none?"),
    Row("which of the two is longer?", [Picture(32, 40, 2), Picture(24, 32, 3)]),
    Row("what moves?", [Video(4, 32, 32, 4)]),
    Row("b?", [Picture(40, 24, 5)]),
]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return case.save("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


def test_batches_answer_like_single_questions(qwen: str, tmp_path: Path) -> None:
    folder, found = case.write_task(tmp_path, ROWS), []
    for batch in (1, 3):
        lm = case.build(f"base=auto,pretrained={qwen},method=grid,keep=0.5,max_frames_num=2", batch=batch)
        assert type(lm) is AutoModel
        results = case.evaluate(lm, folder)
        told = results["throughput"]
        found.append((case.texts(results), told["avg_visual_tokens"], told["avg_text_only_prompts"]))
    assert found[0] == found[1] and found[0][2] == 1
    # Units of 8 x 8 pixels: 16, 20 + 12, one pair of two frames of 16, 15, each halved upwards.
    assert found[0][1] == (8 + (10 + 6) + 8 + 8) / 4


@pytest.mark.parametrize("kind", ["idefics3", "gemma3"])
def test_families_without_a_class_in_lmms_eval(kind: str, tmp_path: Path) -> None:
    model = case.save(kind, tmp_path / "model")
    folder = case.write_task(tmp_path / "task", [ROWS[0], ROWS[1], ROWS[4]])
    said = {}
    for asked in ("none", "grid,keep=0.3"):
        results = case.evaluate(case.build(f"base=auto,pretrained={model},method={asked}", batch=2), folder)
        said[asked] = case.texts(results)
        told = results["throughput"]
        assert (told["avg_visual_tokens"] < told["avg_visual_tokens_full"]) == (asked != "none")
    assert said["none"] != said["grid,keep=0.3"]


def test_settings_are_greedy_unless_a_task_samples() -> None:
    greedy = {"temperature": None, "top_p": None, "top_k": None, "do_sample": False}
    asked: dict[str, Any]
    for asked in ({}, {"temperature": 0, "do_sample": True}, {"temperature": 0.7, "do_sample": False}):
        assert greedy.items() <= settings(asked).items()
    assert settings({})["max_new_tokens"] == 1024
    sampled = settings({"temperature": 0.7, "max_new_tokens": 5, "until": ["x"]})
    assert sampled["do_sample"] and sampled["max_new_tokens"] == 5 and "until" not in sampled


def test_answers_end_where_the_task_says() -> None:
    assert [until("a\n\nb", stops) for stops in (None, "\n\n", ["b", "\n"], [""])] == ["a\n\nb", "a", "a", "a\n\nb"]


class Words:
    """A processor that writes what it is told."""

    image_token, video_token = "<image>", "<video>"
    chat_template: Any = "one"

    def apply_chat_template(self, told: Any, **_: Any) -> str:
        return "".join(part.get("text", f"<{part['type']}>") for message in told for part in message["content"])


def test_prompts_hold_what_is_shown_in_order(tmp_path: Path) -> None:
    picture = Image.new("L", (4, 3))
    picture.save(tmp_path / "p.png")
    frames = np.zeros((5, 4, 4, 3), dtype=np.uint8)
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image", "url": picture},
        {"type": "video", "url": frames},
        {"type": "image", "url": str(tmp_path / "p.png")},
        {"type": "video", "url": [Image.fromarray(frame) for frame in frames]},
    ]
    found = lmms_prompts.prompt(Words(), [{"role": "user", "content": parts}], 2)
    assert found.text == "a<image><video><image><video>"
    assert [(one.mode, one.size) for one in found.images] == [("RGB", (4, 3))] * 2
    assert all(np.array_equal(one, frames) for one in found.videos)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"type": "audio", "url": "x.wav"}, "shows no audio"),
        ({"type": "image", "url": "missing.png"}, "is no picture"),
        ({"type": "video", "url": 3}, "is no video"),
        ({"type": "video", "url": {"url": "x.mp4", "video_start": 1.0}}, "is no video"),
        ({"type": "video", "url": "missing.mp4"}, "does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused(part: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lmms_prompts.prompt(Words(), [{"role": "user", "content": [part]}], 2)


def test_a_missing_template_or_placeholder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = [{"role": "user", "content": [{"type": "image", "url": Image.new("RGB", (4, 4))}]}]
    monkeypatch.setattr(Words, "image_token", "<picture>")
    with pytest.raises(ValueError, match="writes no image placeholder <picture>"):
        lmms_prompts.prompt(Words(), message, 2)
    monkeypatch.setattr(Words, "chat_template", None)
    with pytest.raises(ValueError, match="has no chat template"):
        lmms_prompts.prompt(Words(), message, 2)
