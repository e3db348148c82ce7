"""The video model's training: batches, labels of tokens, warm start, resuming, export."""

import json

import numpy as np
import pytest
import torch

from evoprune.tiny import build as image_build
from evoprune.tiny import train
from evoprune.tiny.batches import IGNORED
from evoprune.tiny.scenes import COLOUR_NAMES
from evoprune.tiny.video import batches, build, labels, questions
from evoprune.tiny.video.clips import FRAMES, clip
from evoprune.tiny.video.plan import VideoPlan
from evoprune.tiny.video.prompts import ClipPrompts, corpus
from evoprune.tiny.video.run import VideoRun
from evoprune.tiny.video.trainee import LOOK, READ, VideoTrainee


@pytest.fixture(scope="module")
def prompts():
    return ClipPrompts(image_build.tokenizer(corpus(), ("image", "video")))


@pytest.fixture(scope="module")
def untrained(prompts):
    torch.manual_seed(0)
    return build.model(prompts.words, depth=2, blocks=LOOK + 1).eval()


def test_every_answer_is_one_token(prompts):
    for index in range(40):
        for q in questions.every(clip("dev", 0, index), np.random.default_rng(index)):
            assert len(prompts.answer(q.answer)) == 2


def test_training_prompt_is_the_processors_and_logits_are_the_models(prompts, untrained):
    """A packed block equals the stock model's forward on the stock processor's output, video and pictures alike."""
    processor = build.processor(prompts.words)
    learner = VideoTrainee(untrained, prompts.words).eval()
    c = clip("train", 0, 3, frames=6)
    question = questions.every(c, np.random.default_rng(0))[0]
    for pooled, shown in ((True, c), (False, c.pick((1, 3, 5)))):
        opening = prompts.opening(len(shown.frames), pooled, np.random.default_rng(0), "", True)
        block = (prompts.encode(f"{question.text} ASSISTANT:"), prompts.answer(question.answer))
        count = len(shown.frames)
        batch = batches.VideoBatch(
            batches.frame_tensor([shown]),
            torch.arange(count) == 1,
            ((0, count, True),) if pooled else tuple((n, n + 1, False) for n in range(count)),
            labels.dense_labels([shown]),
            labels.seen_labels(labels.token_labels(shown, pooled)),
            *batches.assemble([(opening, [block])], prompts.words.pad_token_id),
            torch.tensor([[0, len(opening) + len(block[0]) - 1, shown.movers[0].digit]]),
        )
        kind = "video" if pooled else "image"
        content = [{"type": kind}] * (1 if pooled else count) + [{"type": "text", "text": question.text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        films = {"videos": [shown.frames]} if pooled else {"images": [[*shown.frames]]}
        read = processor(text=[text], **films, return_tensors="pt", add_special_tokens=False)
        assert read["input_ids"][0].tolist() == [*opening, *block[0]]
        with torch.no_grad():
            stock = untrained(**read).logits[0, -1]
            _, logits = learner(batch, True)
        assert torch.allclose(logits[0], stock, atol=2e-5)


def test_untraced_frames_are_read_but_teach_the_tower_nothing(prompts, untrained):
    learner = VideoTrainee(untrained, prompts.words)
    batch = batches.batch(prompts, "train", 0, 0, 2, each=2)
    assert 2 <= batch.traced.sum() <= 4 < len(batch.traced)
    whole = torch.ones_like(batch.traced)
    with torch.no_grad():
        some, every = (
            learner._features(batches.VideoBatch(**{**vars(batch), "traced": flag})) for flag in (batch.traced, whole)
        )
    assert torch.allclose(some, every, atol=1e-6)
    batch.pixels.requires_grad_()
    learner._features(batch).sum().backward()
    moved = batch.pixels.grad.flatten(1).abs().sum(1) > 0
    assert torch.equal(moved, batch.traced)


def test_token_labels_say_what_boxes_say():
    for index in range(30):
        c = clip("train", 6, index)
        told = labels.token_labels(c, pooled=False).reshape(len(c.frames), -1, 8)
        for frame, y, x in zip(*np.nonzero(c.owner >= 0), strict=True):
            m = c.movers[c.owner[frame, y, x]]
            way, rank, side, across, down, begun, moved, value = told[frame, y * 10 + x]
            assert value == m.digit
            assert rank == sorted(other.seen[0] for other in c.movers).index(m.seen[0])
            assert np.allclose((across * 80, down * 80), m.centre(frame))
            assert np.allclose(((across - moved) * 80, begun * 80), m.centre(m.seen[0])[0])
            if frame == m.seen[0]:
                assert way == side == IGNORED, "nothing has moved yet"
            elif way != IGNORED:
                assert way == (2 if m.still else moved > 0)
        assert (told[:, -1, :3] == IGNORED).all(), "newline"
        pooled = labels.token_labels(c, pooled=True)
        assert len(pooled) == len(c.frames) * 25 + 1


def test_warm_start_brings_words_and_layers(prompts):
    from evoprune import tiny

    torch.manual_seed(0)
    network = build.model(prompts.words)
    build.warm_start(network, prompts.words)
    image, processor = tiny.load()
    red = processor.tokenizer.encode(" red", add_special_tokens=False)[0]
    row = prompts.words.encode(" red", add_special_tokens=False)[0]
    assert torch.equal(network.get_input_embeddings().weight[row], image.get_input_embeddings().weight[red])
    for number in range(11):
        mine, theirs = (m.model.vision_tower.encoder.layers[number].mlp.fc1.weight for m in (network, image))
        assert torch.equal(mine, theirs)
    hidden = torch.randn(1, 5, build.WIDTH)
    last = network.model.vision_tower.encoder.layers[-1]
    assert torch.equal(last(hidden, attention_mask=None), hidden), "the twelfth layer begins as the identity"


def test_a_cut_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "DEPTH", 2)
    sizes = {"dense_clips": 1, "batch": 1, "pool": 3, "watched": 2}
    plan = VideoPlan(dense_steps=1, watch_steps=2, joint_steps=2, binding_steps=1, aid_steps=0, **sizes)
    whole = VideoRun(tmp_path / "whole", plan, torch.device("cpu"))
    assert [row["stage"] for row in whole.rows(every=1, save_seconds=1e9)] == [0, 1, 1, 2, 2]
    for cut in (2, 4):  # while watching and while asked
        first = VideoRun(tmp_path / f"cut{cut}", plan, torch.device("cpu"))
        for row in first.rows(every=1, save_seconds=1e9):
            if row["step"] == cut:
                first.save()
                break
        second = VideoRun(tmp_path / f"cut{cut}", plan, torch.device("cpu"))
        assert second.step == cut
        assert len(list(second.rows(every=1, save_seconds=1e9))) == 5 - cut
        for (name, a), b in zip(whole.trainee.named_parameters(), second.trainee.parameters(), strict=True):
            assert torch.equal(a, b), (cut, name)


def test_watching_reads_what_the_model_reads_and_moves_only_the_first_decoder_layers(tmp_path, prompts):
    plan = VideoPlan(dense_steps=0, watch_steps=1, joint_steps=0, pool=2, watched=2)
    run = VideoRun(tmp_path, plan, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in run.trainee.named_parameters()}
    batch = run.batch()
    network = run.trainee.network
    with torch.no_grad():
        pixels = batches.frame_tensor([clip("train", 2, 0)])[None]
        seen = network.model.get_video_features(pixels, return_dict=True).pooler_output[:, : FRAMES * 25]
        seen = torch.cat((seen, network.model.image_newline[None, None]), 1)  # older versions add it in `forward`
        hidden = network.model.language_model(inputs_embeds=seen, output_hidden_states=True).hidden_states
        assert any(torch.allclose(row, seen[0], atol=1e-5) for row in batch.embeds)
        assert torch.allclose(run.trainee._watch(seen), hidden[READ], atol=1e-5)
    run.update(batch, True)
    moved = {name for name, p in run.trainee.named_parameters() if not torch.equal(p, before[name])}
    inside = {f"network.model.language_model.layers.{number}." for number in range(READ)}
    assert moved and all(any(name.startswith(part) for part in (*inside, "seen")) for name in moved)


def test_plan_asks_more_and_more():
    plan = VideoPlan(dense_steps=6, watch_steps=4, joint_steps=90, binding_steps=10, aid_steps=20)
    assert [plan.stage(step) for step in (0, 5, 6, 9, 10, 99)] == [0, 0, 1, 1, 2, 2]
    assert [plan.level(step) for step in (10, 19, 20, 39, 40, 99)] == [0, 0, 1, 1, 2, 2]
    assert [plan.difficulty(step) for step in (10, 40, 55, 70, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert plan.first_clip(12) == 6 * plan.dense_clips + 2 * plan.batch


def test_one_script_trains_both(tmp_path, monkeypatch):
    from evoprune.tiny import run as image_run

    made = []

    class Stop(Exception):
        pass

    def record(self, folder, plan, device):
        made.append((type(self), type(plan)))
        raise Stop

    monkeypatch.setattr(image_run.Run, "__init__", record)
    for words in (["--out", str(tmp_path)], ["--video", "--out", str(tmp_path), "--joint-steps", "7"]):
        with pytest.raises(Stop):
            train.main(words)
    assert [(a.__name__, b.__name__) for a, b in made] == [("Run", "Plan"), ("VideoRun", "VideoPlan")]


def test_export_loads_with_the_auto_classes(tmp_path, prompts, untrained):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    image_build.save(untrained, build.processor(prompts.words), tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path)
    for (name, a), b in zip(untrained.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a.half().float(), b), name
    read = processor(text=["<video>\nhello"], videos=[clip("dev", 0, 0).frames], return_tensors="pt")
    assert (read["input_ids"] == loaded.config.video_token_id).sum() == 8 * 25 + 1
    assert loaded.generate(**read, max_new_tokens=2, do_sample=False).shape[1] == read["input_ids"].shape[1] + 2
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["vision_feature_layer"] == -1 and facts["vision_config"]["vision_use_head"] is False


def test_looking_is_the_attention_of_its_layer(prompts):
    """The loss equals what eager attention of that layer gives, over a loop of questions."""
    torch.manual_seed(0)
    network = build.model(prompts.words, depth=1, blocks=LOOK + 1).eval()
    network.set_attn_implementation("eager")
    learner = VideoTrainee(network, prompts.words)
    batch = batches.batch(prompts, "train", 3, 8, 2, each=6)
    taken = []
    hook = network.model.language_model.layers[LOOK].self_attn.register_forward_hook(lambda m, a, o: taken.append(o[1]))
    with torch.no_grad():
        losses, _ = learner(batch, True)
    hook.remove()
    model = network.config
    here = (batch.ids == model.image_token_id) | (batch.ids == model.video_token_id)
    whose = torch.full_like(batch.ids, -1)
    whose[here] = batch.seen["whose"]
    found = []
    for row, place, digit in batch.asked.tolist():
        assert batch.labels[row, place] != IGNORED
        if (whose[row] == digit).any():
            found.append(-taken[0][row, :, place, whose[row] == digit].sum(-1).mean().log())
    assert len(found) > 6
    assert losses["look"].item() == pytest.approx(torch.stack(found).mean().item(), rel=1e-4)


def test_questions_name_the_digit_that_answers():
    for index in range(20):
        c = clip("train", 7, index)
        for q in questions.every(c, np.random.default_rng(index)):
            if q.kind in ("digit", "moves_left", "first") or q.text.startswith("Which digit"):
                assert q.about == int(q.answer)
            elif q.text.startswith("What colour"):
                (mover,) = [m for m in c.movers if m.digit == q.about]
                assert q.answer == COLOUR_NAMES[mover.colour]
            elif q.kind in ("still", "crossed") or (q.kind == "exists" and q.answer == "no"):
                assert q.about is None
