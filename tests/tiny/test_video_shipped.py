"""The shipped video model: it loads, answers, and needs the clip."""

import numpy as np
import pytest
import torch
from PIL import Image

from evoprune.tiny import video
from evoprune.tiny.video import benchmark, packed

CLIPS = 24


@pytest.fixture(scope="module")
def shipped():
    return video.load()


@pytest.fixture(scope="module")
def projected(shipped):
    return packed.read(*shipped, "test", CLIPS)


def test_it_is_a_stock_model_with_all_tower_layers_read(shipped):
    model, processor = shipped
    assert (type(model).__name__, type(processor).__name__) == (
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionProcessor",
    )
    assert model.config.vision_config.model_type == "siglip_vision_model"
    assert model.config.vision_feature_layer == -1 and model.config.vision_feature_select_strategy == "full"
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("form", ["array", "pictures", "tensor"])
def test_frames_in_any_form_give_the_same_answer(shipped, form):
    model, processor = shipped
    frames = benchmark.film("test", 3).frames
    given = {
        "array": frames,
        "pictures": [Image.fromarray(frame) for frame in frames],
        "tensor": torch.from_numpy(frames).permute(0, 3, 1, 2),
    }[form]
    text = benchmark.prompt(processor, "Which digit came first?")
    inputs = processor(videos=[given], text=[text], return_tensors="pt", add_special_tokens=False)
    assert (inputs["input_ids"] == model.config.video_token_id).sum() == len(frames) * 25 + 1
    assert torch.allclose(
        inputs["pixel_values_videos"][0], torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1, atol=1e-5
    )
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip().isdigit()


def test_several_pictures_are_read_too(shipped):
    model, processor = shipped
    frames = benchmark.film("test", 3).frames
    chat = [{"role": "user", "content": [{"type": "image"}] * 2 + [{"type": "text", "text": "Is there a 3?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=[[frames[3], frames[5]]], text=[text], return_tensors="pt", add_special_tokens=False)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 2 * 101
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip() in ("yes", "no")


def test_it_answers_and_needs_the_clip(shipped, projected):
    model, processor = shipped
    asked = benchmark.examples("test", CLIPS)
    seen = packed.run(model, processor, asked, projected).accuracy
    guessed = float(np.mean(benchmark.one_frame_reader("test", asked)))
    blind = benchmark.run(model, processor, "test", clips=CLIPS, frames=[]).accuracy
    assert seen > max(guessed, blind) + 0.1


def test_packed_answers_are_generates(shipped, projected):
    model, processor = shipped
    asked = benchmark.examples("test", 3)
    slow = list(benchmark.answers(model, processor, "test", asked))
    assert list(packed.run(model, processor, asked, projected).answers) == slow


def test_another_folder_can_be_named(monkeypatch, tmp_path):
    assert video.folder().name == "model"
    monkeypatch.setenv("EVOPRUNE_TINY_VIDEO_MODEL", str(tmp_path))
    assert video.folder() == tmp_path


def test_weights_are_small():
    assert (video.folder() / "model.safetensors").stat().st_size <= 6_000_000
