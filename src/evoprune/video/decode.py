"""Video files by PyAV: the frames that are wanted, and no more decoding than is safe."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .clip import Clip, Taken, sample_indices

COVER = 0x400  # FFmpeg's disposition of a picture attached to an audio file


class Table(NamedTuple):
    """A file's own table of frames: times (N,) ascending, and of key frames the times and where to seek for them."""

    times: list[int]
    keys: list[int]
    seeks: list[int]


def read_file(file: Path, frames: int, report: Callable[[int, int], None]) -> Clip:
    """Read evenly spread frames of a video file; see `read_video`.

    A file with a complete table of frames (MP4, MOV) is decoded from the key frame before each wanted frame only. Where
    the table is missing or does not agree with what the decoder gives, everything is decoded twice: to count the
    frames, and to take those wanted.
    """
    with _opened(file) as (container, stream):
        table, fps = _table(container, stream), stream.average_rate or stream.guessed_rate
        found = _pick_by_table(container, stream, table, sample_indices(len(table.times), frames), report)
    if found is not None:
        total = len(table.times)
    else:
        with _opened(file) as (container, stream):
            total = sum(1 for _ in container.decode(stream))
        if not total:
            raise ValueError(f"{file} has a video stream without frames: record or download it again")
        with _opened(file) as (container, stream):
            found = _pick_in_turn(container, stream, sample_indices(total, frames), report)
    taken, times = found
    if taken.done < taken.count:  # what decoded once does not decode again: the file changes while it is read
        raise ValueError(f"{file} gave {taken.done} of {taken.count} frames: give a file that nothing writes to")
    rate = float(fps) if fps else None
    indices = tuple(sample_indices(total, frames))
    return Clip(taken.frames, indices, _seconds(times, indices, rate), rate, total, frames, str(file))


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; what PyAV raises becomes a sentence."""
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"{file} needs the package av to be decoded, and it is not installed: pip install 'evoprune[video]', or "
            "give a folder of pictures"
        ) from error
    try:
        with av.open(str(file)) as container:
            streams = [one for one in container.streams.video if not _disposition(one) & COVER]
            if not streams:
                kinds = sorted({one.type for one in container.streams})
                raise ValueError(
                    f"{file} has no video stream (it holds {', '.join(kinds) or 'nothing'}): give a file with a picture"
                )
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except av.FFmpegError as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"{file} is broken or no video that FFmpeg reads ({reason}): give another file") from error


def _disposition(stream: Any) -> int:
    found = getattr(stream, "disposition", 0)
    return int(getattr(found, "value", found))  # an enum in PyAV 15, a number elsewhere


def _table(container: Any, stream: Any) -> Table:
    """The times of all frames, read without decoding; empty where they cannot be relied on."""
    times, keys = [], []
    for packet in container.demux(stream):
        if not packet.size:
            continue  # the empty packet at the end, which flushes decoders
        if packet.pts is None or packet.dts is None or packet.is_discard or packet.is_corrupt:
            return Table([], [], [])
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append((packet.pts, packet.dts))
    # Containers without a declared count may hold packets that show no frame, such as hidden reference frames.
    if len(times) != stream.frames or len(set(times)) != len(times) or not keys:
        return Table([], [], [])
    keys.sort()
    return Table(sorted(times), [key for key, _ in keys], [seek for _, seek in keys])


def _pick_by_table(
    container: Any, stream: Any, table: Table, indices: list[int], report: Callable[[int, int], None]
) -> tuple[Taken, list[float | None]] | None:
    """Seek to the key frame before each wanted frame; None if the decoder gives other frames than the table says."""
    if not table.times:
        return None
    taken, seconds = Taken(len(indices), report), list[float | None]()
    decoder, last = iter(()), table.times[0] - 1
    for target in (table.times[index] for index in indices):
        key = bisect_right(table.keys, target) - 1
        if key < 0:
            return None
        if table.keys[key] > last:
            container.seek(table.seeks[key], stream=stream)
            decoder = container.decode(stream)
        while last != target:
            frame = next(decoder, None)
            if frame is None or frame.pts is None or frame.pts > target:
                return None
            last = frame.pts
        _take(frame, taken)
        seconds.append(float((target - table.times[0]) * stream.time_base))
    return taken, seconds


def _pick_in_turn(
    container: Any, stream: Any, indices: list[int], report: Callable[[int, int], None]
) -> tuple[Taken, list[float | None]]:
    """Decode from the first frame on."""
    taken, seconds, start = Taken(len(indices), report), list[float | None](), None
    for number, frame in enumerate(container.decode(stream)):
        if not number:
            start = frame.time
        if number == indices[taken.done]:
            _take(frame, taken)
            seconds.append(None if start is None or frame.time is None else float(frame.time - start))
            if taken.done == taken.count:
                break
    return taken, seconds


def _take(frame: Any, taken: Taken) -> None:
    turned = int(getattr(frame, "rotation", 0) or 0)  # degrees counter-clockwise
    quarters = round(turned / 90) % 4 if turned % 90 == 0 else 0
    size: dict[str, int] = {}
    if taken.done:  # a stream may change its size on the way
        height, width = taken.frames.shape[1:3]
        size = {"width": height, "height": width} if quarters % 2 else {"width": width, "height": height}
    taken.add(np.rot90(frame.to_ndarray(format="rgb24", **size), quarters))


def _seconds(times: list[float | None], indices: tuple[int, ...], rate: float | None) -> tuple[float, ...] | None:
    """Times of the frames: their own, else by the rate, else none."""
    known = tuple(time for time in times if time is not None)
    if len(known) == len(indices):
        return known
    return tuple(index / rate for index in indices) if rate else None
