"""Pictures and clips as files that give every pixel back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE = 2  # frames a second of the clips; nothing depends on it


def png(pixels: np.ndarray) -> bytes:
    """Return a picture, uint8 (H, W, 3), as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def ffv1(path: Path, frames: np.ndarray) -> None:
    """Write frames, uint8 (F, H, W, 3), with a codec that gives every pixel back, through PyAV and through decord.

    Raises
    ------
    ValueError
        PyAV is missing.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError("clips for lmms-eval need the extra 'eval': pip install 'evoprune[eval]'") from error
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for packet in _packets(stream, frames):
            container.mux(packet)


def _packets(stream: Any, frames: np.ndarray) -> Iterator[Any]:
    import av

    for frame in frames:
        yield from stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
    yield from stream.encode()
