"""Requests that are wrong, each in one way: a server owes every one of them HTTP 4xx and a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from .malformed_pictures import addresses, parts, pictures
from .serving import chat, data_url, image, text
from .wrong import QUESTION, Wrong


def every(picture: Image.Image) -> list[Wrong]:
    """Return all of them, for a server of the embedded model that lets requests choose their budget."""
    kinds = (budgets, processor_settings, pictures, addresses, parts, messages, bodies, settings, lengths)
    return [one for kind in kinds for one in kind(picture)]


def budgets(picture: Image.Image) -> Iterator[Wrong]:
    """No budgets, and budgets that this model cannot give."""
    unreachable = [
        (1, "smallest reachable"), (6, "smallest reachable"), (0, "below 1"), (-5, "below 1"),
        (197, "above the 196 tokens"), (10**9, "above the 196 tokens"), (10**400, ""), (0.0, "outside (0, 1]"),
        (1.5, "outside (0, 1]"), (-0.25, "outside (0, 1]"), (1e-9, "smallest reachable"), (1e308, ""),
    ]  # fmt: skip
    none = ("abc", "16", "0.25", "", [], [16], {}, {"keep": 16}, True, False, "all", [[]], "16 ")
    for words in ([image(data_url(picture)), QUESTION], [image(data_url(picture)), image(data_url(picture)), QUESTION]):
        for keep, says in unreachable:
            yield Wrong(f"budget {keep!s:.20}", chat(*words, mm_processor_kwargs={"evoprune_keep": keep}), says=says)
        for keep in none:
            yield Wrong(
                f"budget {keep!r}", chat(*words, mm_processor_kwargs={"evoprune_keep": keep}), says="is no budget"
            )
    for raw in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = json.dumps(chat(image(data_url(picture)), QUESTION, mm_processor_kwargs={"evoprune_keep": "?"}))
        yield Wrong(f"budget {raw}", body.replace('"?"', raw).encode(), says="is no budget")


def processor_settings(picture: Image.Image) -> Iterator[Wrong]:
    """Settings of the picture processor, some of which would end the engine."""
    odd: list[dict[str, Any]] = [
        {"size": {"height": 10, "width": 10}}, {"crop_size": {"height": 336, "width": 336}}, {"do_resize": False},
        {"image_mean": [1]}, {"evoprune_image": [[1, 1]]}, {"images": 5}, {"text": "x"}, {"return_tensors": "np"},
        {"evoprune_keep": 49, "do_rescale": "abc"}, {"evoprune_keeps": 49}, {"do_normalize": False},
    ]  # fmt: skip
    for one in odd:
        body = chat(image(data_url(picture)), QUESTION, mm_processor_kwargs=one)
        yield Wrong(f"processor setting {one}", body, says="a request may set evoprune_keep only")
    for value in ("abc", 5, [], [{}], True):
        yield Wrong(
            f"processor settings {value!r}", chat(image(data_url(picture)), QUESTION, mm_processor_kwargs=value)
        )


def messages(picture: Image.Image) -> Iterator[Wrong]:
    """Messages without a role, without content, or none."""
    content = [image(data_url(picture)), QUESTION]
    for role in (5, None, [], {}, True, 1.5):
        yield Wrong(f"role {role!r}", {"model": "tiny", "messages": [{"role": role, "content": content}]})
    for value in (5, None, True, [5], [[]], [None], 1.5):
        yield Wrong(f"content {value!r}", {"model": "tiny", "messages": [{"role": "user", "content": value}]})
    for rows in ([], {}, "hi", [5], [None], [[]], [{"content": "hi"}], 5, None, [{}], [{"role": "user"}, 5]):
        yield Wrong(f"messages {rows!r}", {"model": "tiny", "messages": rows})
    yield Wrong("no messages", {"model": "tiny"})


def bodies(picture: Image.Image) -> Iterator[Wrong]:
    """What is no JSON, not the JSON of a request, or not for this address."""
    good = json.dumps(chat(image(data_url(picture)), QUESTION)).encode()
    for name, body in {
        "nothing": b"", "{": b"{", "list": b"[]", "null": b"null", "number": b"5", "string": b'"x"',
        "no UTF-8": b"\xff\xfe{}",
        "deep lists": b"[" * 50_000, "deep objects": b'{"a":' * 50_000, "cut off": good[: len(good) // 2],
        "cut at its end": good[:-1],
        "twice": good + good, "single quotes": good.replace(b'"', b"'"), "zeros": b"\0" * 1000,
        "a picture": bytes(range(256)),
        "form": b"model=tiny&messages=hi", "comma": good[:-1] + b",}",
    }.items():  # fmt: skip
        yield Wrong(f"body: {name}", body)
    yield Wrong("text in place of JSON", good, kind="text/plain")
    yield Wrong("picture in place of JSON", good, kind="image/png")
    yield Wrong("no such address", good, "/v1/chat/completion")
    yield Wrong("GET in place of POST", None)
    yield Wrong("no such model", {**json.loads(good), "model": "gpt"})


def settings(picture: Image.Image) -> Iterator[Wrong]:
    """Numbers out of range, and other types than asked for."""
    wrong: list[Mapping[str, Any]] = [
        *({"max_tokens": one} for one in (10**9, 10**30, -1, 0, "abc", 1.5, 100_000, [])),
        *({"temperature": one} for one in (-1, "hot", 3e9, [], {})),
        *({"top_p": one} for one in (2, 0, -1, "x")), {"top_k": -5}, {"top_k": "x"}, {"min_p": 5}, {"min_p": -1},
        *({"n": one} for one in (0, -1, 10**6, 10**9, "x")), {"seed": "a"}, {"seed": 2**70}, {"min_tokens": 10},
        {"min_tokens": -1},
        {"logprobs": True, "top_logprobs": 10**6}, {"logprobs": True, "top_logprobs": -5}, {"top_logprobs": 5},
        {"stop": [5]}, {"stop": 5},
        {"presence_penalty": 100}, {"frequency_penalty": -100}, {"repetition_penalty": 0}, {"logit_bias": {"a": 1}},
        {"logit_bias": {"999999": 1}},
        {"response_format": {"type": "wizard"}}, {"response_format": {"type": "json_schema"}},
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"json": "{"}}, {"structured_outputs": {"grammar": "root ::= ("}},
        {"structured_outputs": {"regex": "a", "json": "{}"}},
        {"stream": "maybe"}, {"stream_options": {"include_usage": True}}, {"truncate_prompt_tokens": -5},
        {"truncate_prompt_tokens": 10},
        {"prompt_logprobs": -3}, {"prompt_logprobs": 10**6}, {"chat_template": "{% for"},
        {"chat_template": "{{ 1/0 }}"}, {"tools": [{"type": "x"}]},
        {"tool_choice": "required"}, {"add_generation_prompt": True, "continue_final_message": True},
        {"bad_words": [""]}, {"bad_words": [5]},
        {"allowed_token_ids": [10**9]}, {"allowed_token_ids": []}, {"stop_token_ids": [10**12]},
        {"stop_token_ids": ["a"]},
        {"thinking_token_budget": -5}, {"documents": 5}, {"media_io_kwargs": {"image": {"image_mode": "XX"}}},
        {"media_io_kwargs": 5},
        {"media_io_kwargs": {"image": {"rgba_background_color": [1]}}}, {"vllm_xargs": {"a": {}}}, {"request_id": 5},
        {"cache_salt": ""},
        {"cache_salt": 5}, {"return_token_ids": "x"}, {"echo": "x"}, {"skip_special_tokens": "x"},
    ]  # fmt: skip
    for one in wrong:
        yield Wrong(f"setting {dict(one)!r:.60}", chat(image(data_url(picture)), QUESTION, **one))


def lengths(picture: Image.Image) -> Iterator[Wrong]:
    """Prompts that are longer than the model reads, by words, by pictures and by smuggled placeholders."""
    url = data_url(picture)
    yield Wrong("prompt too long", chat(text("red " * 5000)))
    yield Wrong("prompt too long beside a picture", chat(image(url), text("red " * 5000)))
    yield Wrong("prompt much too long", chat(text("red " * 500_000)))
    for number in (50, 300):
        yield Wrong(f"{number} pictures", chat(*[image(url)] * number, QUESTION))
    yield Wrong(
        "pictures too large together", chat(*[image(url)] * 12, QUESTION, mm_processor_kwargs={"evoprune_keep": 1.0})
    )
    yield Wrong("5,000 placeholders as text", chat(text("<image>" * 5000)))
    yield Wrong("5,000 placeholders as text beside a picture", chat(text("<image>" * 5000), image(url)))
