"""Messages of a task as what a processor of transformers takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...video import Clip, read_video


@dataclass(frozen=True)
class Prompt:
    """The text that the chat template makes of a question, and what stands at its placeholders, in order.

    Attributes
    ----------
    videos
        Sampled clips, or arrays of frames uint8 (F, H, W, 3) that a task sampled itself.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[Clip | np.ndarray, ...] = ()


def prompt(processor: Any, messages: Sequence[Mapping[str, Any]], frames: int) -> Prompt:
    """Return the prompt of a conversation.

    Parameters
    ----------
    messages
        ``{"role", "content"}`` each, contents of the types ``text``, ``image`` and ``video``, the latter two with
        a PIL image, a path or frames in ``url``.
    frames
        How many frames of a video are read.

    Raises
    ------
    ValueError
        No chat template, something that is neither, or a file that cannot be read.
    """
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"{type(processor).__name__} has no chat template, and base=auto writes prompts with it: save one beside "
            "the model, or choose the base that lmms-eval has for it"
        )
    images: list[Image.Image] = []
    videos: list[Clip | np.ndarray] = []
    told = []
    for message in messages:
        parts = []
        for part in message["content"]:
            if part["type"] == "image":
                images.append(_image(part["url"]))
            elif part["type"] == "video":
                videos.append(_video(part["url"], frames))
            elif part["type"] != "text":
                raise ValueError(f"base=auto shows no {part['type']}: choose a task with texts, pictures and videos")
            parts.append({"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]})
        told.append({"role": message["role"], "content": parts})
    text = processor.apply_chat_template(told, add_generation_prompt=True, tokenize=False)
    for kind, shown in (("image", images), ("video", videos)):
        token = getattr(processor, f"{kind}_token", None)
        if shown and token and token not in text:
            raise ValueError(
                f"the chat template beside the model writes no {kind} placeholder {token}: mend it, or choose a task "
                f"without {kind}s"
            )
    return Prompt(text, tuple(images), tuple(videos))


def inputs(processor: Any, prompts: Sequence[Prompt]) -> Any:
    """Return what `generate` takes for prompts that all show pictures, or none; padded on the left."""
    start = getattr(processor.tokenizer, "bos_token", None)
    seen: dict[str, Any] = {}
    if any(one.images for one in prompts):
        seen["images"] = [list(one.images) for one in prompts]
    videos = [video for one in prompts for video in one.videos]
    if videos:
        seen["videos"] = [video.frames if isinstance(video, Clip) else video for video in videos]
        seen["video_metadata"] = [_metadata(video) for video in videos]
        seen["do_sample_frames"] = False
    return processor(
        text=[one.text for one in prompts],
        **seen,
        return_tensors="pt",
        padding=len(prompts) > 1,
        # A template that writes the start token itself must not get a second one.
        add_special_tokens=not (start and prompts[0].text.startswith(start)),
    )


def _image(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    if isinstance(given, str) and os.path.isfile(given):
        with Image.open(given) as opened:
            return opened.convert("RGB")
    raise ValueError(f"{given!r} is no picture: tasks give PIL images or paths of files")


def _video(given: Any, frames: int) -> Clip | np.ndarray:
    if isinstance(given, Mapping) and not {"video_start", "video_end"} & set(given):
        given = given.get("url") or given.get("path")
    if isinstance(given, (str, os.PathLike)):
        return read_video(os.fspath(given), frames)
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, Image.Image) for one in given):
        given = np.stack([np.asarray(one.convert("RGB")) for one in given])
    if isinstance(given, np.ndarray) and given.ndim == 4:
        return given
    raise ValueError(f"{given!r} is no video that base=auto reads: tasks give paths of files, or frames")


def _metadata(video: Clip | np.ndarray) -> dict[str, Any]:
    if isinstance(video, Clip):
        return video.metadata()
    count, height, width = video.shape[:3]
    return {
        "total_num_frames": count, "fps": None, "width": width, "height": height, "duration": None,
        "frames_indices": list(range(count)),
    }  # fmt: skip
