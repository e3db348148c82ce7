"""Asks a model one question about some pictures, through its own processor and `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError  # torch brings jinja2 along; transformers writes prompts with it
from PIL import Image

from .errors import UserError, first_line


def chat(processor: Any, question: str, pictures: int) -> str:
    """The prompt, with a placeholder for each picture: by the chat template where there is one."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    token = getattr(processor, "image_token", None)
    if token is None:
        raise UserError(f"{type(processor).__name__} has neither a chat template nor an image token: add a template")
    return f"{token}\n" * pictures + question


def prepare(
    processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]], device: torch.device
) -> Any:
    """Return what `generate` takes for a batch of questions, each about its own pictures.

    Raises
    ------
    UserError
        A question holds the image placeholder itself, so that the counts would not fit, or the processor's template
        or settings do not make a prompt.
    """
    token = getattr(processor, "image_token", None)
    for question in questions:
        if token and token in question:
            raise UserError(
                f"the prompt holds the image placeholder {token}: leave it out, pictures come before the text"
            )
    tokenizer = getattr(processor, "tokenizer", None)
    start = getattr(tokenizer, "bos_token", None)
    try:
        prompts = [chat(processor, question, len(own)) for question, own in zip(questions, pictures, strict=True)]
        inputs = processor(
            text=prompts,
            images=[list(own) for own in pictures],
            return_tensors="pt",
            padding=len(prompts) > 1,
            # A template that writes the start token itself must not get a second one.
            add_special_tokens=not (start and prompts[0].startswith(start)),
        )
    except (ValueError, TypeError, TemplateError) as error:
        raise UserError(
            f"{type(processor).__name__} cannot make a prompt ({first_line(error)}): check the chat template, "
            "patch_size and num_additional_image_tokens beside the model"
        ) from error
    return inputs.to(device)


def generate(model: Any, processor: Any, inputs: Any, max_new_tokens: int) -> list[str]:
    """Return the answers, greedily decoded.

    Floating-point inputs are cast to the model's type, as pictures come in float32.
    """
    cast = {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in inputs.items()}
    output = model.generate(**cast, max_new_tokens=max_new_tokens, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


def visual_tokens(model: Any, inputs: Any) -> int:
    """Placeholders of all pictures in a prompt as the model's own processor writes it."""
    return int((inputs["input_ids"] == model.config.image_token_id).sum())
