"""The question on its way to the feature stage: CDPruner on the tiny LLaVA, by embeddings and by text towers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evoprune import CDPruner, EvoPrune, apply
from evoprune.models import graphs
from evoprune.pruners.cdpruner import conditional_map
from tests import builders
from tests import text_towers as tiny

KEEP = 10
QUESTIONS = ["which colour has it ?", "where is the dog on the left side of the picture ?", "2 + 2"]
TEXTS = [f"USER: <image> {question} ASSISTANT:" for question in QUESTIONS]
TOWERS = {"clip": tiny.clip, "siglip": tiny.siglip}
ALL = pytest.mark.parametrize("kind", ["embeddings", *TOWERS])


def pruner_of(kind: str, keep: int | float = KEEP, **settings: Any) -> CDPruner:
    return CDPruner(keep, text_tower=TOWERS[kind]() if kind in TOWERS else kind, **settings)


def applied(model: Any, pruner: Any, **settings: Any) -> Any:
    """Apply with a processor that only this call patches."""
    return apply(model, pruner, builders.processor(), **settings)


def cosine(states: Tensor, question: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(states.double(), question.double(), dim=-1)


def literal(model: Any, pruner: CDPruner, pixels: Tensor, text: str) -> Tensor:
    """Return the relevance (N,) of one picture's patches to the text around it, without hooks."""
    hidden = model.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
    tower: Any = pruner.text_tower
    words = text.replace("<image>", "").split()
    if tower == "embeddings":
        around = "".join(text.split("<image>"))  # one token a byte, blanks too
        ids = builders.tokenizer()(around, add_special_tokens=False)["input_ids"]
        question = model.get_input_embeddings().weight[ids].mean(0)
        return cosine(model.model.multi_modal_projector(hidden[None])[0], question)
    marks = tower.tokenizer("", add_special_tokens=True)["input_ids"]
    ids, size = tower.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"], tiny.LONGEST - len(marks)
    found = []
    for begin in range(0, len(ids), size):
        one = [*marks[:-1], *ids[begin : begin + size], marks[-1]]
        if isinstance(tower, tiny.SiglipModel):
            one += [0] * (tiny.LONGEST - len(one))
        found.append(tower.get_text_features(torch.tensor([one])).pooler_output[0])
    states = tower.vision_model.post_layernorm(hidden)
    clip = isinstance(tower, tiny.CLIPModel)
    places = tower.visual_projection(states) if clip else tower.vision_model.head(states[:, None])
    return torch.stack([cosine(places, question) for question in found]).mean(0)


def chosen(model: Any, relevance: Tensor, sign: int, pixels: Tensor, keep: int = KEEP) -> Tensor:
    """Return the places kept of one picture by its relevance, scaled by itself."""
    hidden = model.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states[-2][:, 1:]
    values = sign * relevance.float()
    scaled = (values - values.min() + 1e-6) / (values.max() - values.min())
    return conditional_map(model.model.multi_modal_projector(hidden), scaled[None], keep)[0].sort().values


@ALL
@torch.no_grad()
def test_each_row_is_pruned_by_its_own_question(llava: Any, kind: str) -> None:
    pruner, x = pruner_of(kind), builders.inputs(TEXTS, [3, 3, 3])
    with applied(llava, pruner) as handle:
        batch, kept = llava(**x).logits, handle.stats.positions
    wanted = [literal(llava, pruner, x["pixel_values"][0], text) for text in TEXTS]
    sign = -1 if kind == "clip" else 1
    for relevance, pixels, found in zip(wanted, x["pixel_values"], kept, strict=True):
        assert torch.equal(chosen(llava, relevance, sign, pixels), found)
    assert len({tuple(places.tolist()) for places in kept}) == 3  # one picture, three questions
    with applied(llava, pruner) as handle:
        for row, text in enumerate(TEXTS):
            one = llava(**builders.inputs([text], [3])).logits[0]
            torch.testing.assert_close(batch[row, -len(one) :], one, atol=1e-5, rtol=1e-5)
            assert torch.equal(handle.stats.positions[0], kept[row])


@torch.no_grad()
def test_the_sign_may_be_given(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [3])
    found = []
    for settings in ({}, {"relevance_sign": -1}, {"relevance_sign": 1}):
        pruner = pruner_of("clip", **settings)
        with applied(llava, pruner) as handle:
            llava(**x)
            found.append(handle.stats.positions[0])
            assert handle.pruners == (pruner,)  # as it was given
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def by_beam(kept: Tensor, found: Tensor) -> Tensor:
    """Return what two beams keep: transformers encodes pictures before it makes beams, or makes copies of them."""
    return kept if len(found) == len(kept) else kept.repeat_interleave(2, 0)


@ALL
@torch.no_grad()
def test_generate_beams_and_chunks(llava: Any, kind: str) -> None:
    texts = [f"a {'<image>' * n} {question}" for n, question in zip((1, 2, 1), QUESTIONS, strict=True)]
    x, pruner = builders.inputs(texts, [1, 2, 3, 4]), pruner_of(kind)
    with applied(llava, pruner) as handle:
        llava(**x)
        kept = handle.stats.positions
        first = llava.generate(**x, max_new_tokens=3)
        assert torch.equal(handle.stats.positions, kept)
        llava.generate(**x, max_new_tokens=3, num_beams=2)
        assert torch.equal(handle.stats.positions, by_beam(kept, handle.stats.positions))
    with applied(llava, pruner, encoder_batch=1) as handle:
        assert torch.equal(llava.generate(**x, max_new_tokens=3), first)
        assert torch.equal(handle.stats.positions, kept)
        llava.generate(**x, max_new_tokens=2, num_beams=2)
        assert torch.equal(handle.stats.positions, by_beam(kept, handle.stats.positions))


@ALL
@torch.no_grad()
def test_behind_a_pruner_of_the_encoder(llava: Any, kind: str) -> None:
    x = builders.inputs(TEXTS, [3, 3, 3])
    with applied(llava, [EvoPrune(32), pruner_of(kind)]) as handle:
        assert torch.isfinite(llava(**x).logits).all()
        assert handle.stats.positions.shape == (3, KEEP)
        assert len({tuple(places.tolist()) for places in handle.stats.positions}) > 1


@torch.no_grad()
def test_embeddings_leave_out_padding_and_special_tokens(llava: Any) -> None:
    """Other padding, and marks that the model's config or the processor know, change nothing."""
    pruner, x = pruner_of("embeddings"), builders.inputs(TEXTS, [1, 2, 3])
    bos = torch.full((3, 2), 1)
    marked = x | {
        "input_ids": torch.cat((x["input_ids"], bos), 1),
        "attention_mask": torch.cat((x["attention_mask"], torch.ones_like(bos)), 1),
    }
    with apply(llava, pruner) as handle:
        llava(**x)
        kept = handle.stats.positions
        llava(**marked)
        assert torch.equal(handle.stats.positions, kept)
    with applied(llava, pruner) as handle:
        llava(**x)
        assert torch.equal(handle.stats.positions, kept)


@ALL
@torch.no_grad()
def test_a_picture_without_text_is_refused(llava: Any, kind: str) -> None:
    with applied(llava, pruner_of(kind)):
        for texts, seeds, row in ((["<image>", TEXTS[0]], [3, 3], 0), ([TEXTS[0], "<image>"], [3, 3], 1)):
            with pytest.raises(ValueError, match=f"row {row} of the prompt has a picture and no text but special"):
                llava(**builders.inputs(texts, seeds))


@pytest.mark.parametrize(
    ("settings", "processor", "words"),
    [
        (
            {},
            True,
            "text_tower='openai/clip-vit-large-patch14-336' (the CLIP or SigLIP that the vision tower was taken",
        ),
        ({}, True, "text_tower=None does not say what understands it"),
        ({}, True, "or text_tower='embeddings', the language model's own"),
        (
            {"text_tower": "clip"},
            False,
            "call apply(model, pruner, tokenizer=processor.tokenizer), or use text_tower='embeddings'",
        ),
        ({"text_tower": "clip"}, True, "is 32 wide and that of text_tower 16: give the CLIP or SigLIP that it was"),
        ({"text_tower": "no/where"}, True, "text_tower='no/where' cannot be loaded as a CLIP or SigLIP"),
    ],
)
def test_errors_come_at_apply_time(llava: Any, settings: dict[str, Any], processor: bool, words: str) -> None:
    if settings.get("text_tower") == "clip":
        settings = {"text_tower": tiny.clip(16)}
    before = sorted(llava.model.__dict__), sorted(llava.__dict__), len(llava.model.vision_tower._forward_pre_hooks)
    with pytest.raises(ValueError) as raised:
        apply(llava, CDPruner(16, **settings), builders.processor() if processor else None)
    assert words in str(raised.value)
    after = sorted(llava.model.__dict__), sorted(llava.__dict__), len(llava.model.vision_tower._forward_pre_hooks)
    assert after == before


def test_several_layers_of_features_have_no_text_tower() -> None:
    model = builders.model(feature_layer=[-2, -3])
    with pytest.raises(ValueError, match="does not take the patch states of one layer, which text_tower needs"):
        applied(model, pruner_of("clip"))
    with apply(model, pruner_of("embeddings")):
        model(**builders.inputs(TEXTS, [1, 2, 3]))


@ALL
@torch.no_grad()
def test_the_last_layer_is_read_before_the_towers_own_norm(kind: str) -> None:
    """The hidden states of the last layer are without it, and the text tower adds it once."""
    model, pruner = builders.model(feature_layer=-1), pruner_of(kind)
    x = builders.inputs(TEXTS[:1], [3])
    states = model.model.vision_tower(x["pixel_values"], output_hidden_states=True)
    blocks: list[Tensor] = []
    hook = model.model.vision_tower.encoder.layers[-1].register_forward_hook(lambda m, a, out: blocks.append(out))
    model.model.vision_tower(x["pixel_values"])
    hook.remove()
    assert torch.equal(blocks[0][0] if isinstance(blocks[0], tuple) else blocks[0], states.hidden_states[-1])
    with applied(model, pruner) as handle:
        model(**x)
        assert handle.stats.positions.shape == (1, KEEP)


def test_calls_without_a_question_are_refused(llava: Any) -> None:
    x = builders.inputs(TEXTS[:1], [3])
    with apply(llava, pruner_of("embeddings")):
        for _ in range(2):
            with pytest.raises(
                ValueError, match="was called without a prompt, and the pruner ranks tokens by the quest"
            ):
                llava.model.get_image_features(x["pixel_values"])
            llava(**x)
        embeds = llava.get_input_embeddings()(x.pop("input_ids"))
        with pytest.raises(ValueError, match="was given inputs_embeds without input_ids"):
            llava(inputs_embeds=embeds, **x)
    with apply(llava, CDPruner(1.0)):  # nothing is asked where everything stays
        llava.model.get_image_features(x["pixel_values"])


@torch.no_grad()
def test_a_graph_of_the_encoder_keeps_no_question(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "BACKEND", "eager")
    found = []
    for mode in ("eager", "compile"):
        with apply(llava, pruner_of("embeddings"), encoder_mode=mode) as handle:
            for text in TEXTS:
                llava(**builders.inputs([text], [3]))
                assert handle.stats.encoder_mode == mode
                found.append(handle.stats.positions[0].tolist())
    assert found[:3] == found[3:] and found[0] != found[1]
    with apply(llava, pruner_of("embeddings")):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # where a tower holds its projector
        with pytest.raises(RuntimeError, match="a graph would keep the question"):
            llava(**builders.inputs(TEXTS[:1], [3]))
