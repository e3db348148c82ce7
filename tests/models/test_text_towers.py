"""CLIP and SigLIP beside the model: texts in segments and patches in the space of the texts, written out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evoprune.models.text_towers import TextTower
from tests import text_towers as tiny

CPU = torch.device("cpu")
END = tiny.CLIP_WORDS.index("<end>")
SHORT, LONG = "a dog", "what is the small dog in the corner doing now ?"
BOTH = pytest.mark.parametrize("make", [tiny.clip, tiny.siglip])


def alone(model: Any, ids: list[int]) -> Tensor:
    """Return the unit embedding of one marked text, by the model's own function."""
    if isinstance(model, tiny.SiglipModel):
        ids = ids + [0] * (tiny.LONGEST - len(ids))
    found = model.get_text_features(torch.tensor([ids])).pooler_output[0]
    return found / found.norm()


def marked(model: Any, text: str) -> list[list[int]]:
    """Return the segments of a text with their marks, one token a byte."""
    clip = isinstance(model, tiny.CLIPModel)
    words = tiny.CLIP_WORDS if clip else tiny.SIGLIP_WORDS
    ids = [words.index("Ġ" if letter == " " else letter) for letter in text]
    before, behind = ([words.index("<start>")] if clip else []), [words.index("<end>")]
    size = tiny.LONGEST - len(before) - 1
    return [before + ids[i : i + size] + behind for i in range(0, len(ids), size)]


@BOTH
@torch.no_grad()
def test_a_question_is_the_mean_of_its_segments(make: Any) -> None:
    model = make()
    tower = TextTower(model, CPU)
    assert len(marked(model, SHORT)) == 1 and len(marked(model, LONG)) > 3
    assert tower.segments(LONG) == marked(model, LONG)
    wanted = [
        torch.stack([alone(model, ids) for ids in marked(model, text)]).mean(0) for text in (SHORT, LONG, SHORT + LONG)
    ]
    found = tower.questions([SHORT, LONG, SHORT + LONG])
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tower.questions([LONG])[0], found[1], atol=1e-5, rtol=1e-5)


@BOTH
@torch.no_grad()
def test_every_segment_of_a_long_question_counts(make: Any) -> None:
    """The official code reads the first of several segments at its beginning, which is the same for every question."""
    tower = TextTower(make(), CPU)
    other = "who" + LONG[3:]
    assert tower.segments(LONG)[1:] == tower.segments(other)[1:]
    assert not torch.allclose(tower.questions([LONG]), tower.questions([other]), atol=1e-3)


@BOTH
def test_no_text_is_no_direction(make: Any) -> None:
    tower = TextTower(make(), CPU)
    found = tower.questions(["", SHORT])
    assert not found[0].any() and found[1].any()
    assert tower.questions(["", ""]).shape == found.shape and not tower.questions(["", ""]).any()


@torch.no_grad()
def test_clip_reads_at_the_end_whichever_way_its_config_has() -> None:
    """Checkpoints older than their end id say 2, and are read at the largest id."""
    assert torch.equal(*(TextTower(tiny.clip(end=end), CPU).questions([SHORT, LONG]) for end in (2, END)))
    with pytest.raises(ValueError, match=r"the tokenizer of text_tower='CLIPModel' ends a text with \[257\], and the"):
        TextTower(tiny.clip(end=5), CPU)


@torch.no_grad()
def test_patches_of_clip_take_the_way_of_the_whole_picture() -> None:
    model = tiny.clip()
    pixels = torch.randn(2, 3, 32, 32)
    states = model.vision_model(pixels).last_hidden_state
    whole = model.get_image_features(pixels).pooler_output
    tower = TextTower(model, CPU)
    torch.testing.assert_close(tower.patches(states)[:, 0], whole, atol=1e-5, rtol=1e-5)
    norm = model.vision_model.post_layernorm
    each = [
        model.visual_projection.weight @ ((one - one.mean()) / (one.var(correction=0) + norm.eps).sqrt())
        for one in states.flatten(0, 1)
    ]
    torch.testing.assert_close(tower.patches(states).flatten(0, 1), torch.stack(each), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_patches_of_siglip_are_shown_to_the_pooling_head_alone() -> None:
    model = tiny.siglip()
    states, head = torch.randn(2, 5, 32), model.vision_model.head
    found = TextTower(model, CPU).patches(states)
    for states_of_one, row in zip(states, found, strict=True):
        for state, got in zip(states_of_one, row, strict=True):
            normed = model.vision_model.post_layernorm(state)
            # The attention over one token is its value.
            value = head.attention.in_proj_weight[64:] @ normed + head.attention.in_proj_bias[64:]
            pooled = head.attention.out_proj(value)
            torch.testing.assert_close(got, pooled + head.mlp(head.layernorm(pooled)), atol=1e-4, rtol=1e-4)


@BOTH
@torch.no_grad()
def test_a_given_model_is_left_as_it_is(make: Any) -> None:
    model = make().bfloat16().train()
    before = copy.deepcopy(model.state_dict())
    tower = TextTower(model, CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tower.questions([LONG]).dtype == tower.patches(torch.randn(1, 4, 32)).dtype == torch.float32
    assert model.training and model.text_model.training
    assert all(one.dtype == torch.bfloat16 for one in model.parameters())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@BOTH
@torch.no_grad()
def test_a_folder_is_loaded(make: Any, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded, given = TextTower(str(tmp_path), CPU), TextTower(model, CPU)
    assert torch.equal(loaded.questions([SHORT, LONG]), given.questions([SHORT, LONG]))
    assert loaded.kind == given.kind and loaded.width == 32
    del model.tokenizer
    model.name_or_path = str(tmp_path)
    assert TextTower(model, CPU).segments(LONG) == given.segments(LONG)


def test_what_is_no_text_tower_is_refused(tmp_path: Path) -> None:
    from tests import builders

    with pytest.raises(
        ValueError, match=r"cannot be loaded as a CLIP or SigLIP with its tokenizer .* or text_tower='e"
    ):
        TextTower(str(tmp_path / "nothing"), CPU)
    builders.config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(it is a 'llava'\): give the name or folder of one"):
        TextTower(str(tmp_path), CPU)
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="text_tower is a Linear without a tokenizer: set its attribute `tokenizer`"):
        TextTower(linear, CPU)
    linear.tokenizer = builders.tokenizer()
    with pytest.raises(ValueError, match="text_tower='Linear' has no text and vision side in one space"):
        TextTower(linear, CPU)
