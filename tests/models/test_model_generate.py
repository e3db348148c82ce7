"""Arguments of generate that speak of the prompt: lengths, streamers, stop strings, the user's own callbacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TextStreamer,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

from evoprune.apply import apply
from evoprune.pruners import EvoPrune, UniformGrid
from tests import builders

TEXT = "USER: <image> what is this ? ASSISTANT:"
PRUNER = EvoPrune(16)


@pytest.fixture
def x() -> dict[str, torch.Tensor]:
    return builders.inputs([TEXT], [1])


@pytest.fixture
def answer(llava: Any, x: dict[str, torch.Tensor]) -> list[int]:
    with apply(llava, PRUNER):
        return llava.generate(**x, max_new_tokens=8, do_sample=False)[0, -8:].tolist()


@pytest.mark.parametrize("way", ["argument", "config", "model"])
def test_max_length_counts_the_users_prompt(llava: Any, x: Any, answer: list[int], way: str) -> None:
    length = x["input_ids"].shape[1] + 6
    import copy

    config = copy.deepcopy(llava.generation_config)
    config.max_length = length
    settings = {"argument": {"max_length": length}, "config": {"generation_config": config}, "model": {}}[way]
    own = llava.generation_config
    if way == "model":
        llava.generation_config = config
    try:
        with apply(llava, PRUNER):
            out = llava.generate(**x, **settings, do_sample=False)
            assert llava.generate(**x, **settings, max_new_tokens=3, do_sample=False).shape[1] == length - 3
    finally:
        llava.generation_config = own
    assert out[0].tolist() == x["input_ids"][0].tolist() + answer[:6]
    assert config.max_length == length


def test_a_prompt_that_is_too_long_is_still_refused(llava: Any, x: Any) -> None:
    with apply(llava, PRUNER), pytest.raises(ValueError, match="max_length"):
        llava.generate(**x, max_length=10)


def test_min_length_counts_the_users_prompt(llava: Any, x: Any, answer: list[int]) -> None:
    length = x["input_ids"].shape[1]
    with apply(llava, PRUNER):
        early = llava.generate(**x, eos_token_id=answer[0], max_new_tokens=6, do_sample=False)
        late = llava.generate(**x, eos_token_id=answer[0], min_length=length + 3, max_new_tokens=6, do_sample=False)
    assert early.shape[1] == length + 1
    assert late.shape[1] >= length + 4 and answer[0] not in late[0, length : length + 3]


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.seen.append(value)

    def end(self) -> None:
        self.ended = True


def test_streamers_see_the_users_prompt_and_the_answer(llava: Any, x: Any, answer: list[int], capsys: Any) -> None:
    recorder = Recorder()
    tokenizer = builders.tokenizer()
    with apply(llava, PRUNER):
        llava.generate(**x, streamer=recorder, max_new_tokens=8, do_sample=False)
        llava.generate(**x, streamer=TextStreamer(tokenizer, skip_prompt=True), max_new_tokens=8, do_sample=False)
    assert torch.equal(recorder.seen[0], x["input_ids"]) and recorder.ended
    assert [int(value) for value in recorder.seen[1:]] == answer
    assert capsys.readouterr().out.strip() == tokenizer.decode(answer)


def test_stop_strings_and_repetition_penalty(llava: Any, x: Any, answer: list[int]) -> None:
    tokenizer = builders.tokenizer()
    stop = tokenizer.decode(answer[1])
    with apply(llava, PRUNER):
        out = llava.generate(**x, stop_strings=[stop], tokenizer=tokenizer, max_new_tokens=8, do_sample=False)
        assert out[0, x["input_ids"].shape[1] :].tolist() == answer[: answer.index(answer[1]) + 1]
        features = llava.model.get_image_features(x["pixel_values"]).pooler_output
        penalised = llava.generate(**x, repetition_penalty=5.0, max_new_tokens=1, do_sample=False)[0, -1]
    from tests.models import literal

    with torch.no_grad():
        logits = literal.logits(llava, x["input_ids"][0], list(features), 64)[-1]
    seen = x["input_ids"][0].unique()
    logits[seen] = torch.where(logits[seen] < 0, logits[seen] * 5.0, logits[seen] / 5.0)
    assert int(penalised) == int(logits.argmax())


def test_padding_brings_no_new_id_into_a_row(llava: Any) -> None:
    both = builders.inputs([TEXT, "what is this ? a b c d e f"], [1])
    seen = []
    with apply(llava, PRUNER):
        llava.model.register_forward_pre_hook(hook := lambda m, a, k: seen.append(k["input_ids"]), with_kwargs=True)
        llava.generate(**both, max_new_tokens=1)
        llava.model._forward_pre_hooks.popitem()
    assert hook is not None
    for old, new in zip(both["input_ids"], seen[0], strict=True):
        assert set(new.tolist()) <= set(old.tolist())


def test_the_users_callbacks_see_the_users_prompt(llava: Any, x: Any, answer: list[int]) -> None:
    length, seen = x["input_ids"].shape[1], []

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape[1])
        assert torch.equal(ids[:, :length], x["input_ids"])
        return scores

    def stop(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([ids.shape[1] >= length + 3])

    def allowed(batch: int, ids: torch.Tensor) -> list[int]:
        seen.append(len(ids))
        return [answer[0]]

    with apply(llava, PRUNER):
        out = llava.generate(
            **x, logits_processor=LogitsProcessorList([processor]), stopping_criteria=StoppingCriteriaList([stop]),
            max_new_tokens=8, do_sample=False,
        )  # fmt: skip
        assert seen == [length, length + 1, length + 2] and out[0, length:].tolist() == answer[:3]
        limit = StoppingCriteriaList([MaxLengthCriteria(length + 2)])
        out = llava.generate(**x, stopping_criteria=limit, max_new_tokens=8, do_sample=False)
        assert out[0, length:].tolist() == answer[:2]
        seen.clear()
        out = llava.generate(**x, prefix_allowed_tokens_fn=allowed, max_new_tokens=2, do_sample=False)
        assert seen == [length, length + 1] and out[0, -2:].tolist() == [answer[0]] * 2


def test_positional_ids_and_the_old_name(llava: Any, x: Any, answer: list[int]) -> None:
    ids = x.pop("input_ids")
    with apply(llava, PRUNER):
        for out in (
            llava.generate(ids, **x, max_new_tokens=8, do_sample=False),
            llava.generate(inputs=ids, **x, max_new_tokens=8, do_sample=False),
        ):
            assert out[0, ids.shape[1] :].tolist() == answer
        a, b = llava(ids, x["pixel_values"]).logits, llava(input_ids=ids, pixel_values=x["pixel_values"]).logits
        assert torch.equal(a, b)


def test_scores_and_other_outputs_of_generate(llava: Any, x: Any, answer: list[int]) -> None:
    with apply(llava, PRUNER):
        out = llava.generate(
            **x, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_scores=True,
            output_hidden_states=True, output_logits=True,
        )  # fmt: skip
        scores = llava.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    assert out.sequences[0].tolist() == x["input_ids"][0].tolist() + answer[:3]
    picked = [float(s[0].log_softmax(-1)[token]) for s, token in zip(out.scores, answer, strict=False)]
    torch.testing.assert_close(scores[0], torch.tensor(picked), atol=1e-5, rtol=1e-5)
    assert out.hidden_states[0][0].shape[1] == x["input_ids"].shape[1] - 48


def test_pipeline_with_an_unpatched_processor(llava: Any, x: Any, answer: list[int]) -> None:
    processor = builders.processor()
    ask = pipeline("image-text-to-text", model=llava, processor=processor)
    prompt = TEXT
    with apply(llava, PRUNER):
        out = ask(images=[builders.picture(1)], text=prompt, generate_kwargs={"max_new_tokens": 8, "do_sample": False})
    assert out[0]["generated_text"].endswith("ASSISTANT:" + builders.tokenizer().decode(answer))
    messages = [
        {
            "role": "USER:",
            "content": [{"type": "image", "image": builders.picture(1)}, {"type": "text", "text": "what"}],
        }
    ]
    with apply(llava, PRUNER):
        out = ask(text=messages, return_full_text=False, generate_kwargs={"max_new_tokens": 4, "do_sample": False})
    assert len(out[0]["generated_text"]) == 4


@torch.no_grad()
def test_original_positions_behind_a_prompt_that_ends_with_a_picture(llava: Any) -> None:
    """What is generated counts on from the picture's end, not from the last of its survivors."""
    seen: list[int] = []
    layer = llava.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(int(kwargs["position_ids"][0, -1])), with_kwargs=True
    )
    ids = builders.inputs(["what <image>"], [1])
    with apply(llava, UniformGrid(16, positions="original")):
        llava.generate(**ids, max_new_tokens=3, do_sample=False)
    hook.remove()
    width = ids["input_ids"].shape[1]
    assert seen == [width - 2, width, width + 1]  # the last of 16 even places of 64 is the last but one
