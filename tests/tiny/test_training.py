"""The training script: batches, growth, resuming."""

import json

import pytest
import torch

from evoprune.tiny import batches, build, muon, train, trainee
from evoprune.tiny.batches import IGNORED, Prompts


@pytest.fixture(scope="module")
def prompts():
    return Prompts(build.tokenizer(batches.corpus()))


def test_words_are_single_tokens_and_any_text_round_trips(prompts):
    for word in ("yes", "no", "7", *batches.COLOUR_NAMES):
        assert len(prompts.answer(word)) == 2
    text = "Grüße, what is 3 × 4?"
    assert prompts.words.decode(prompts.encode(text)) == text
    with pytest.raises(ValueError, match="tokens"):
        prompts.answer("hippopotamus")


def test_block_of_a_packed_batch_equals_a_prompt_of_its_own(prompts):
    """The logits of every block equal those of prefix + block alone, in order, at its own positions."""
    torch.manual_seed(0)
    model = build.model(prompts.words, depth=2).eval()
    learner = trainee.Trainee(model, prompts.words).eval()
    batch = batches.batch(prompts, "train", 0, 0, 2, each=3)
    with torch.no_grad():
        _, logits = learner(batch, True)
        rows = (batch.labels != IGNORED).nonzero()
        feature = model.model.get_image_features(pixel_values=batch.pixels, return_dict=True).pooler_output
        pictures = torch.cat(list(feature)).flatten(0, -2)
        for place, (row, column) in enumerate(rows.tolist()):
            visible = batch.mask[row, 0, column].nonzero()[:, 0]
            ids = batch.ids[row, visible]
            assert torch.equal(batch.positions[row, visible], torch.arange(len(visible))), "positions have no gap"
            embeds = model.get_input_embeddings()(ids)[None]
            before = (batch.ids[:row] == prompts.image).sum()
            here = (ids == prompts.image).nonzero()[:, 0]
            embeds[0, here] = pictures[before : before + len(here)]
            alone = model.model.language_model(inputs_embeds=embeds).last_hidden_state[0, -1]
            assert torch.allclose(model.lm_head(alone), logits[place], atol=2e-5)


def test_growing_keeps_the_function(prompts):
    torch.manual_seed(0)
    small = trainee.Trainee(build.model(prompts.words, depth=3), prompts.words)
    deep = trainee.grow(small, prompts.words)
    batch = batches.batch(prompts, "train", 0, 0, 3, each=2)
    with torch.no_grad():
        before, after = small(batch, True), deep(batch, True)
    assert len(deep.network.model.vision_tower.encoder.layers) == 6
    for name in ("digit", "colour", "place", "cls", "answer"):
        assert torch.allclose(before[0][name], after[0][name], atol=1e-5), name
    assert torch.allclose(before[1], after[1], atol=1e-4)


def test_orthogonalised_steps_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (2, 20, 8)):
        values = torch.linalg.svdvals(muon.orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_muon_follows_torch(prompts):
    """One step equals torch.optim.Muon's up to its bfloat16 iteration."""
    torch.manual_seed(0)
    start, gradient = torch.randn(12, 30), torch.randn(12, 30)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    muon.Muon([ours], lr=0.1, weight_decay=0.02).step()
    torch.optim.Muon([theirs], lr=0.1, weight_decay=0.02, adjust_lr_fn="match_rms_adamw").step()
    ours, theirs = ours.detach(), theirs.detach()
    assert (ours - start).norm() == pytest.approx((theirs - start).norm().item(), rel=0.05)
    assert torch.nn.functional.cosine_similarity((ours - start).flatten(), (theirs - start).flatten(), dim=0) > 0.99


def test_a_cut_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "DEPTH", 4)
    plan = train.Plan(dense_steps=2, joint_steps=2, deep_steps=2, dense_batch=2, batch=2)
    whole = train.Run(tmp_path / "whole", plan, torch.device("cpu"))
    rows = list(whole.rows(every=1, save_seconds=1e9))
    assert [row["stage"] for row in rows] == [0, 0, 1, 1, 2, 2]
    for cut in (1, 3, 5):  # in each stage
        folder = tmp_path / f"cut{cut}"
        first = train.Run(folder, plan, torch.device("cpu"))
        for row in first.rows(every=1, save_seconds=1e9):
            if row["step"] == cut:
                first.save()
                break
        second = train.Run(folder, plan, torch.device("cpu"))
        assert second.step == cut
        assert len(list(second.rows(every=1, save_seconds=1e9))) == 6 - cut
        for (name, a), b in zip(whole.trainee.named_parameters(), second.trainee.parameters(), strict=True):
            assert torch.equal(a, b), (cut, name)


def test_export_loads_with_the_auto_classes(tmp_path, prompts):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    network = build.model(prompts.words, depth=2)
    build.save(network, build.processor(prompts.words), tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path)
    for (name, a), b in zip(network.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a.half().float(), b), name
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What digit is red?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "<s>USER: <image>\nWhat digit is red? ASSISTANT:"
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == [
        prompts.words.bos_token_id,
        *prompts.encode("USER: "),
        prompts.image,
        *prompts.encode("\n"),
        *prompts.encode("What digit is red? ASSISTANT:"),
    ]
    assert json.loads((tmp_path / "config.json").read_text())["vision_feature_layer"] == -2
