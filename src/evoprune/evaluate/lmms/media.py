"""Pictures and videos on their way into llava_hf's processor.

Its class for messages hands on an empty list of pictures for prompts without, which transformers 5 refuses, and the
paths of videos, which the processor would decode whole: they are read by the class's own `load_video`, as its class for
plain text does.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ...models.undo import set_attribute

LLAVA = "lmms_eval.models.chat.llava_hf"


class Media:
    """A processor that is given None for an empty list, and frames for the path of a video."""

    def __init__(self, processor: Any, lm: Any):
        self._processor, self._lm = processor, lm

    def __call__(self, *args: Any, images: Any = None, videos: Any = None, **kwargs: Any) -> Any:
        lm = self._lm
        shown = [lm.load_video(video, lm.max_frames_num) if isinstance(video, str) else video for video in videos or []]
        return self._processor(*args, images=images or None, videos=shown or None, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def mend_media(lm: Any, stack: ExitStack) -> None:
    """Put `Media` before the processor of llava_hf's class for messages, until `stack` closes."""
    if type(lm).__module__ == LLAVA:
        set_attribute(lm, "_image_processor", Media(lm._image_processor, lm), stack)
