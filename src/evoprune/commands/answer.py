"""Asks a model one question about some pictures and videos, through its own processor and `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError  # torch brings jinja2 along; transformers writes prompts with it
from PIL import Image

from ..video import Clip
from .errors import UserError, first_line


def chat(processor: Any, question: str, pictures: int, clips: int = 0) -> str:
    """The prompt, with a placeholder for each video and picture: by the chat template where there is one.

    Raises
    ------
    UserError
        Nothing says how the processor writes a picture or a video.
    """
    if getattr(processor, "chat_template", None):
        content = [{"type": "video"}] * clips + [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        token = getattr(processor, "video_token", None)
        if clips and token and token not in prompt:
            raise UserError(
                f"the chat template beside the model writes no video placeholder {token}: mend the template, or ask "
                "about pictures"
            )
        return prompt
    lines = []
    for kind, count in (("video", clips), ("image", pictures)):
        token = getattr(processor, f"{kind}_token", None)
        if count and token is None:
            raise UserError(
                f"{type(processor).__name__} has neither a chat template nor {'an' if kind == 'image' else 'a'} {kind} "
                "token: add a template"
            )
        lines += [f"{token}\n"] * count
    return "".join(lines) + question


def prepare(
    processor: Any,
    questions: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    device: torch.device,
    clips: Sequence[Sequence[Clip]] = (),
) -> Any:
    """Return what `generate` takes for a batch of questions, each about its own pictures and videos.

    Parameters
    ----------
    pictures
        For each question its pictures.
    clips
        For each question its videos; may be empty when there are none at all.

    Raises
    ------
    UserError
        A question holds a placeholder itself, so that the counts would not fit, or the processor's template or settings
        do not make a prompt.
    """
    tokens = [getattr(processor, name, None) for name in ("image_token", "video_token")]
    for question in questions:
        for token in tokens:
            if token and token in question:
                kind = "image" if token == tokens[0] else "video"
                raise UserError(
                    f"the prompt holds the {kind} placeholder {token}: leave it out, pictures come before the text"
                )
    clips = clips or [()] * len(questions)
    tokenizer = getattr(processor, "tokenizer", None)
    start = getattr(tokenizer, "bos_token", None)
    try:
        asked = zip(questions, pictures, clips, strict=True)
        prompts = [chat(processor, question, len(own), len(shown)) for question, own, shown in asked]
        seen: dict[str, Any] = {}
        if any(pictures) or not any(clips):
            seen["images"] = [list(own) for own in pictures]
        inputs = processor(
            text=prompts,
            **seen,
            **_videos([clip for own in clips for clip in own]),
            return_tensors="pt",
            padding=len(prompts) > 1,
            # A template that writes the start token itself must not get a second one.
            add_special_tokens=not (start and prompts[0].startswith(start)),
        )
    except (ValueError, TypeError, TemplateError) as error:
        way_out = "check the chat template, patch_size and num_additional_image_tokens beside the model"
        if any(clips):
            way_out = "give --frames a number of at least 2 that every video has, or check the chat template"
        raise UserError(f"{type(processor).__name__} cannot make a prompt ({first_line(error)}): {way_out}") from error
    return inputs.to(device)


def _videos(clips: Sequence[Clip]) -> dict[str, Any]:
    """Frames that are sampled already, and their places in the clips, for processors that write times."""
    if not clips:
        return {}
    return {
        "videos": [clip.frames for clip in clips],
        "video_metadata": [clip.metadata() for clip in clips],
        "do_sample_frames": False,
    }


def generate(model: Any, processor: Any, inputs: Any, max_new_tokens: int, streamer: Any = None) -> list[str]:
    """Return the answers, greedily decoded; `streamer`, if given, is told of each token.

    Floating-point inputs are cast to the model's type, as pictures come in float32.
    """
    cast = {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in inputs.items()}
    output = model.generate(**cast, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


def visual_tokens(model: Any, inputs: Any) -> int:
    """Placeholders of all pictures and videos in a prompt as the model's own processor writes it."""
    names = ("image_token_id", "video_token_id")
    known = {getattr(model.config, name, None) for name in names} - {None}
    return sum(int((inputs["input_ids"] == token).sum()) for token in known)
