"""`evoprune ask` with videos: what reaches the model, what is printed, and a sentence for every mistake."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from evoprune import EvoPrune
from evoprune.commands import answer, demo_video
from evoprune.commands.ask import unpruned_side
from evoprune.commands.clips import FRAMES, notes, open_clips
from evoprune.commands.errors import UserError
from evoprune.commands.settings import apply_options
from evoprune.commands.trial import Asked, Trial
from evoprune.commands.watching import answering
from evoprune.tiny import build as image_build
from evoprune.tiny.video import build
from evoprune.tiny.video import clips as films
from evoprune.video import read_video
from tests import builders, clips
from tests.test_cli import call, refused

CPU = torch.device("cpu")
QUESTION = "What moves?"
FULL = 9  # placeholders of a frame as transformers pools it: half a side, rounded up


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained LLaVA-OneVision."""
    return clips.save(tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="module")
def loaded(model: Path) -> tuple[Any, Any]:
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    return network.eval(), AutoProcessor.from_pretrained(model)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 20)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def ask(model: object, *more: object, keep: object = 4) -> Any:
    what = ("--prompt", QUESTION, "--keep", keep, "--max-new-tokens", 2, "--device", "cpu")
    return call("ask", model, *what, *more)


# What comes before pruning: reading, inputs, the unpruned answer.


def test_frames_reach_the_processor_as_they_were_sampled(loaded: tuple[Any, Any], video: Path) -> None:
    _, processor = loaded
    clip = read_video(video, 5)
    inputs = answer.prepare(processor, [QUESTION], [[]], CPU, [[clip]])
    pictures = [[Image.fromarray(one) for one in clip.frames]]
    expected = processor.video_processor(videos=pictures, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(inputs["pixel_values_videos"], expected) and expected.shape[:2] == (1, 5)
    assert "pixel_values" not in inputs


def test_placeholders_of_videos_and_pictures_are_counted(loaded: tuple[Any, Any], video: Path) -> None:
    model, processor = loaded
    clip = read_video(video, 5)
    alone = answer.prepare(processor, [QUESTION], [[]], CPU, [[clip]])
    assert answer.visual_tokens(model, alone) == 5 * FULL + 1
    both = answer.prepare(processor, [QUESTION], [[Image.new("RGB", (9, 9))]], CPU, [[clip, clip]])
    pictures = answer.prepare(processor, [QUESTION], [[Image.new("RGB", (9, 9))]], CPU)
    assert answer.visual_tokens(model, both) == 2 * (5 * FULL + 1) + answer.visual_tokens(model, pictures)


def test_the_unpruned_answer_is_that_of_transformers(loaded: tuple[Any, Any], video: Path) -> None:
    model, processor = loaded
    clip = read_video(video, 5)
    prompt = f"USER: <video>\n{QUESTION} ASSISTANT:"
    plain = processor(text=prompt, videos=[list(clip.frames)], return_tensors="pt", do_sample_frames=False)
    output = model.generate(**plain, max_new_tokens=6, do_sample=False)
    expected = processor.batch_decode(output[:, plain["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
    inputs = answer.prepare(processor, [QUESTION], [[]], CPU, [[clip]])
    found = unpruned_side(model, processor, inputs, 6)
    assert found["answer"] == expected
    assert found["visual_tokens"] == 5 * FULL + 1


def test_without_a_chat_template_a_placeholder_a_video_is_written() -> None:
    processor = clips.processor()
    processor.chat_template = None
    assert answer.chat(processor, "x", 1, 2) == "<video>\n<video>\n<image>\nx"


def test_times_reach_a_processor_that_writes_them(video: Path) -> None:
    """Qwen3-VL puts the mean time of two frames in front of their tokens."""
    special = {f"{name}_token": f"<|{name}|>" for name in ("image", "video", "vision_start", "vision_end")}
    words = clips.tokenizer(**special)
    look = Qwen3VLVideoProcessor(size={"shortest_edge": 32**2, "longest_edge": 8 * 64**2})
    template = clips.CHAT.replace("<video>", special["video_token"])
    processor = Qwen3VLProcessor(Qwen2VLImageProcessor(), words, look, chat_template=template)
    clip = read_video(video, 5)
    assert clip.timestamps == pytest.approx((0.2, 0.6, 1.0, 1.4, 1.8))
    for _ in range(2):  # a second call finds the clip as it was
        text = words.decode(answer.prepare(processor, [QUESTION], [[]], CPU, [[clip]])["input_ids"][0])
        assert re.findall(r"<([\d.]+) seconds>", text) == ["0.4", "1.2", "1.8"]


def test_progress_counts_frames_and_words() -> None:
    network, processor = builders.model(), builders.processor()
    inputs = answer.prepare(processor, [QUESTION], [[builders.picture(0), builders.picture(1)]], CPU)
    hooks = len(network.model.vision_tower.encoder.layers[0]._forward_pre_hooks)
    with (
        Progress(console=Console(file=io.StringIO())) as bars,
        answering(bars, network, 2, 5) as streamer,
    ):
        answer.generate(network, processor, inputs, 5, streamer())
        done = {task.description: (task.completed, task.total) for task in bars.tasks}
    assert done == {"Encoding": (2, 2), "Answering": (5, 5)}
    assert len(network.model.vision_tower.encoder.layers[0]._forward_pre_hooks) == hooks


def test_nothing_is_hooked_where_nobody_watches() -> None:
    with Progress(disable=True) as bars, answering(bars, None, 2, 5) as streamer:
        assert streamer() is None and not bars.tasks


def test_frames_by_default_and_notes(video: Path, tmp_path: Path) -> None:
    short = clips.write_folder(tmp_path / "frames", 3)
    found = open_clips([str(video), str(short)], None, shown=False)
    assert [clip.asked for clip in found] == [FRAMES, FRAMES]
    assert notes(found) == [
        f"{video}: the clip has 20 frames, 32 were asked for",
        f"{short}: the clip has 3 frames, 32 were asked for",
    ]
    assert notes(open_clips([str(video)], 20, shown=True)) == []


def test_only_given_options_reach_apply() -> None:
    assert apply_options() == {}
    assert apply_options(encoder_batch=4) == {"encoder_batch": 4}


# Mistakes.


def test_nothing_to_ask_about(model: Path) -> None:
    refused(ask(model), "--image", "--video")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--frames", "0"], ["frames=0", "at least 1"]),
        (["--encoder-batch", "0"], ["--encoder-batch 0", "at least 1"]),
        (["--keep", "0"], ["keep=0"]),
        (["--device", "toaster"], ["--device 'toaster'"]),
    ],
)
def test_wrong_options(model: Path, video: Path, given: list[str], words: list[str]) -> None:
    refused(ask(model, "--video", video, *given), *words)


def test_frames_without_a_video(model: Path, picture: Path) -> None:
    refused(ask(model, "--image", picture, "--frames", 8), "--frames 8", "--video")


def test_wrong_files(model: Path, tmp_path: Path) -> None:
    refused(ask(model, "--video", tmp_path / "gone.mp4"), "does not exist")
    (tmp_path / "empty.mp4").touch()
    refused(ask(model, "--video", tmp_path / "empty.mp4"), "0 bytes")
    refused(ask(model, "--video", clips.write_audio(tmp_path / "a.wav")), "no video stream")


def test_a_model_of_pictures_takes_no_video(tmp_path: Path, video: Path) -> None:
    builders.model().save_pretrained(tmp_path)
    builders.processor().save_pretrained(tmp_path)
    refused(ask(tmp_path, "--video", video, keep=16), "takes no video", "--image", "LlavaProcessor")


def test_a_template_without_a_place_for_videos() -> None:
    processor = clips.processor()
    processor.chat_template = builders.CHAT
    with pytest.raises(UserError, match="no video placeholder <video>"):
        answer.chat(processor, QUESTION, 0, 1)


def test_a_placeholder_in_the_question(loaded: tuple[Any, Any], video: Path) -> None:
    with pytest.raises(UserError, match="video placeholder <video>"):
        answer.prepare(loaded[1], ["a <video> here"], [[]], CPU, [[read_video(video, 2)]])


def test_videos_of_several_lengths(loaded: tuple[Any, Any], video: Path) -> None:
    """LLaVA-OneVision's processor puts all videos into one tensor."""
    with pytest.raises(UserError, match="--frames"):
        answer.prepare(loaded[1], [QUESTION], [[]], CPU, [[read_video(video, 2), read_video(video, 3)]])


# With pruning, from outside.


def test_ask_about_a_video(model: Path, video: Path) -> None:
    result = ask(model, "--video", video, "--frames", 5, "--json", "--compare")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["unpruned"]["visual_tokens"] == 5 * FULL + 1
    assert found["pruned"]["visual_tokens"] == 5 * 4 + 1 and found["method"]["keep"] == 4
    assert 0 < found["tower_flop_ratio"]["to_layers_read"] < 1
    seen = found["videos"][0]
    assert seen["frames_used"] == 5 and seen["total_frames"] == 20 and seen["note"] is None
    assert seen["indices"] == [2, 6, 10, 14, 18]
    assert seen["timestamps"] == pytest.approx([0.2, 0.6, 1.0, 1.4, 1.8])


def test_keep_all_of_a_video_gives_the_unpruned_answer(model: Path, video: Path) -> None:
    found = json.loads(ask(model, "--video", video, "--frames", 3, "--json", "--compare", keep="all").stdout)
    assert found["pruned"]["answer"] == found["unpruned"]["answer"]
    assert found["pruned"]["visual_tokens"] == found["unpruned"]["visual_tokens"] == 3 * FULL + 1


def test_encoder_batch_changes_nothing_but_memory(model: Path, video: Path) -> None:
    whole = json.loads(ask(model, "--video", video, "--frames", 5, "--json").stdout)
    parts = json.loads(ask(model, "--video", video, "--frames", 5, "--json", "--encoder-batch", 2).stdout)
    assert parts["options"] == {"encoder_batch": 2} and "options" not in whole
    for name in ("answer", "visual_tokens", "tower_flops", "tokens_after_each_layer"):
        assert parts["pruned"][name] == whole["pruned"][name]


def test_videos_and_pictures_together(model: Path, video: Path, picture: Path) -> None:
    given = ("--video", video, "--video", video, "--image", picture, "--frames", 3)
    found = json.loads(ask(model, *given, "--json").stdout)
    assert len(found["videos"]) == 2 and found["images"] == [str(picture)]
    assert sorted(found["pruned"]["visual_tokens_per_image"]) == [4 + 4 + 1, 3 * 4 + 1, 3 * 4 + 1]  # whole and tile


@pytest.mark.parametrize("shown", [False, True])
def test_text_tells_the_frames_used(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    monkeypatch.setattr("evoprune.commands.ask.watched", lambda _: shown)
    folder = clips.write_folder(tmp_path / "frames", 3)
    result = ask(model, "--video", folder, "--frames", 64)
    assert result.exit_code == 0, result.output
    assert "3 of 3 frames" in result.stdout and "the clip has 3 frames, 64 were asked for" in result.stdout


# The demo.


def trial(asked: list[Asked], kept: int = 3) -> Trial:
    """What a run could find, made up: in every frame patches 0..kept - 1 survive."""
    frames, patches = sum(len(one.seen.frames) for one in asked), films.GRID**2
    sources = np.tile(np.arange(patches) % kept, (frames, 1))
    return Trial(
        asked=tuple(asked),
        pruner=EvoPrune(kept),
        kind="clip",
        unpruned=("yes",) * len(asked),
        pruned=("no",) * len(asked),
        visual_tokens=(8 * patches, 8 * kept),
        tokens=(50, kept),
        flops=(10, 10, 5),
        milliseconds={"tower": (2.0, 1.0), "answer": (4.0, 3.0)},
        runs=1,
        device="cpu",
        positions=np.tile(np.arange(kept), (frames, 1)),
        sources=sources,
    )


def test_demo_asks_about_several_kinds_of_things() -> None:
    asked = demo_video.pick(4)
    assert len({one.question for one in asked}) > 2
    for one in asked:
        assert one.seen.frames.shape == (films.FRAMES, films.SIDE, films.SIDE, 3)
        assert one.question and one.right


def test_demo_gives_each_clip_its_own_rows() -> None:
    asked = demo_video.pick(2)
    made = trial(asked)
    made.sources[films.FRAMES :] = -1
    first, second = demo_video.films(asked, made)
    assert len(first.sources) == len(second.sources) == films.FRAMES
    assert (first.sources >= 0).all() and (second.sources == -1).all()
    assert np.array_equal(second.frames, asked[1].seen.frames)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_demo_draws_an_animated_picture(tmp_path: Path, ending: str) -> None:
    asked, file = demo_video.pick(2), tmp_path / f"demo.{ending}"
    demo_video.draw(asked, trial(asked), file)
    with Image.open(file) as written:
        assert written.n_frames == films.FRAMES and min(written.size) > 400  # type: ignore[attr-defined]


def test_counts_of_clips_are_named_after_clips() -> None:
    found = trial(demo_video.pick(1)).to_dict()
    assert found["visual_tokens_per_clip"] == {"unpruned": 800, "pruned": 24}
    assert found["tower_flop_ratio"] == {"to_layers_read": 0.5, "to_model_as_shipped": 0.5}


@pytest.mark.parametrize("name", ["demo.png", "missing/demo.gif"])
def test_output_of_the_demo_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("evoprune.tiny.video.load", lambda: pytest.fail("work was done before the path was checked"))
    refused(call("demo", "--video", "--output", tmp_path / name), str(tmp_path))


def test_missing_embedded_video_model(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_TINY_VIDEO_MODEL", str(tmp_path / "gone"))
    refused(call("demo", "--video", "--output", tmp_path / "demo.gif"), "embedded model", "gone")
    refused(ask("tiny-video", "--video", video), "embedded model", "gone")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model of the embedded video model's kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("video_model")
    asked = {one.question for one in demo_video.pick()}
    words = image_build.tokenizer([*sorted(asked), "USER: ASSISTANT:", "yes no 0 1 2 3"], ("image", "video"))
    build.model(words, depth=6, blocks=2).save_pretrained(folder)
    build.processor(words).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("as_json", [False, True])
def test_demo_of_clips(tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    monkeypatch.setenv("EVOPRUNE_TINY_VIDEO_MODEL", str(untrained))
    file = tmp_path / "demo.gif"
    result = call("demo", "--video", "--output", file, "--runs", 1, "--keep", 0.5, *(["--json"] if as_json else []))
    assert result.exit_code == 0, result.output
    with Image.open(file) as written:
        assert written.n_frames == films.FRAMES  # type: ignore[attr-defined]
    if as_json:
        found = json.loads(result.stdout)
        assert found["visual_tokens_per_clip"]["pruned"] < found["visual_tokens_per_clip"]["unpruned"]
        assert 0 < found["tower_flop_ratio"]["to_layers_read"] < 1 and len(found["questions"]) == demo_video.CLIPS
    else:
        assert "a clip without" in result.stdout and str(file) in result.stdout.replace("\n", "")


def test_the_embedded_video_model_by_name(untrained: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_TINY_VIDEO_MODEL", str(untrained))
    result = ask("tiny-video", "--video", video, "--frames", 4, "--json", keep=0.5)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["dtype"] == "float32"
