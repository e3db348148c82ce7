"""Clips of every kind: the frames that the rule names, and a sentence where there are none."""

from __future__ import annotations

import builtins
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from evoprune.video import Clip, decode, read_video, sample_indices
from evoprune.video.pictures import natural
from tests.clips import FPS, SIZE, frame, numbers, write_audio, write_folder, write_video

FILES = [
    ("a.mp4", "mpeg4"),
    ("a.mp4", "libx264"),
    ("a.mov", "mpeg4"),
    ("a.avi", "mpeg4"),
    ("a.mkv", "libx264"),
    ("a.webm", "libvpx-vp9"),
    ("a.webm", "libvpx"),  # its packets may hold frames that are never shown
]


@pytest.mark.parametrize(
    ("total", "frames", "indices"),
    [(100, 4, [12, 37, 62, 87]), (5, 2, [1, 3]), (3, 3, [0, 1, 2]), (3, 64, [0, 1, 2]), (7, 1, [3]), (1, 1, [0])],
)
def test_indices_by_hand(total: int, frames: int, indices: list[int]) -> None:
    assert sample_indices(total, frames) == indices


def test_indices_by_the_documented_rule() -> None:
    for total in range(1, 60):
        for frames in range(1, total + 1):
            found = sample_indices(total, frames)
            assert found == [int(np.floor((i + 0.5) * total / frames)) for i in range(frames)]
            assert len(set(found)) == frames and found[-1] < total


@pytest.mark.parametrize(("name", "codec"), FILES)
def test_files_give_the_frames_of_the_rule(tmp_path: Path, name: str, codec: str) -> None:
    clip = read_video(write_video(tmp_path / name, 23, codec), 5)
    expected = sample_indices(23, 5)
    assert clip.indices == tuple(expected) and clip.total_frames == 23 and clip.note is None
    assert clip.frames.shape == (5, SIZE[1], SIZE[0], 3) and clip.frames.dtype == np.uint8
    assert numbers(clip.frames) == expected
    assert clip.timestamps == pytest.approx([index / FPS for index in expected])
    assert clip.fps == pytest.approx(FPS)


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "g": "12"}, {"x264-params": "open-gop=1", "g": "6"}])
@pytest.mark.parametrize("frames", [1, 3, 23])
def test_seeking_gives_what_decoding_everything_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], frames: int
) -> None:
    file = write_video(tmp_path / "a.mp4", 23, "libx264", options=options)
    monkeypatch.setattr(decode, "_pick_in_turn", lambda *_: pytest.fail("the table of this file can be relied on"))
    by_table = read_video(file, frames)
    monkeypatch.undo()
    monkeypatch.setattr(decode, "_pick_by_table", lambda *_: None)
    in_turn = read_video(file, frames)
    assert np.array_equal(by_table.frames, in_turn.frames)
    assert by_table.timestamps == pytest.approx(in_turn.timestamps) and by_table.to_dict() == in_turn.to_dict()


def test_only_the_part_before_a_wanted_frame_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen, plain = write_video(tmp_path / "a.mp4", 60, gop=5), [], decode._opened

    class Counted:
        def __init__(self, container: Any):
            self.demux, self.seek, self._container = container.demux, container.seek, container

        def decode(self, stream: Any) -> Any:
            for one in self._container.decode(stream):
                seen.append(one.pts)
                yield one

    @contextmanager
    def counted(path: Path) -> Any:
        with plain(path) as (container, stream):
            yield Counted(container), stream

    monkeypatch.setattr(decode, "_opened", counted)
    assert numbers(read_video(file, 2).frames) == [15, 45]
    assert len(seen) < 2 * 5 + 1


def test_a_table_that_does_not_agree_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_video(tmp_path / "a.mp4", 12)
    plain = decode._table

    def shifted(container: Any, stream: Any) -> decode.Table:
        table = plain(container, stream)
        return table._replace(times=[time + 1 for time in table.times])

    monkeypatch.setattr(decode, "_table", shifted)
    assert numbers(read_video(file, 3).frames) == [2, 6, 10]


def test_times_of_a_variable_rate_are_the_frames_own(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mkv", 6, when=lambda number: 5 + number**2)
    assert read_video(file, 3).timestamps == pytest.approx((0.1, 0.9, 2.5), abs=2e-3)


@pytest.mark.parametrize(("rotation", "corner"), [(-90, (0, -1)), (90, (-1, 0)), (180, (-1, -1))])
def test_turned_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    """The white corner, stored at the upper left, comes to the upper right when turned clockwise (-90)."""
    clip = read_video(write_video(tmp_path / "a.mp4", 2, rotation=rotation), 2)
    assert clip.frames.shape[1:3] == (SIZE[::-1] if rotation % 180 == 0 else SIZE)
    assert clip.frames[0][corner].min() > 240 and clip.frames[0][0, 0].max() < 40
    assert clip.metadata()["width"] == clip.frames.shape[2]


def test_fewer_frames_than_asked_for(tmp_path: Path) -> None:
    clip = read_video(write_video(tmp_path / "a.mp4", 5), 64)
    assert numbers(clip.frames) == [0, 1, 2, 3, 4]
    assert clip.note == "the clip has 5 frames, 64 were asked for" == clip.to_dict()["note"]


def test_one_frame(tmp_path: Path) -> None:
    assert read_video(write_video(tmp_path / "a.mp4", 1), 1).note is None
    assert read_video(write_video(tmp_path / "b.webm", 1, "libvpx-vp9"), 4).note == (
        "the clip has 1 frame, 4 were asked for"
    )


def test_every_frame_is_reported(tmp_path: Path) -> None:
    for source in (write_video(tmp_path / "a.mp4", 9), write_folder(tmp_path / "frames", 9)):
        seen: list[tuple[int, int]] = []
        read_video(source, 3, on_frame=lambda done, total, seen=seen: seen.append((done, total)))  # type: ignore[misc]
        assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_folder_in_natural_order(tmp_path: Path, ending: str) -> None:
    folder = write_folder(tmp_path / "frames", 12, ending)
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_text("no frame")
    clip = read_video(folder, 12)
    assert numbers(clip.frames) == list(range(12))
    assert clip.timestamps is None and clip.fps is None and clip.metadata()["fps"] is None


def test_natural_order_of_names() -> None:
    names = ["b1.png", "frame10.png", "frame2.png", "Frame3.png", "frame02.png", "2.png", "10.png", "a.png"]
    assert sorted(names, key=natural) == [
        "2.png", "10.png", "a.png", "b1.png", "frame2.png", "frame02.png", "Frame3.png", "frame10.png",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animated_pictures(tmp_path: Path, ending: str) -> None:
    pictures = [Image.fromarray(frame(number)) for number in range(8)]
    file = tmp_path / f"a.{ending}"
    durations = [100, 200, 100, 100, 100, 300, 100, 100]
    options = {"lossless": True} if ending == "webp" else {}
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, **options)
    clip = read_video(file, 4)
    assert numbers(clip.frames) == [1, 3, 5, 7] and clip.total_frames == 8
    assert clip.timestamps == pytest.approx((0.1, 0.4, 0.6, 1.0))
    assert clip.fps == pytest.approx(8 / 1.1)


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    Image.fromarray(frame(3)).save(file, format="PNG")
    clip = read_video(file, 1)
    assert numbers(clip.frames) == [3] and clip.timestamps is None


def test_metadata_is_new_at_every_call(tmp_path: Path) -> None:
    clip = read_video(write_video(tmp_path / "a.mp4", 6), 3)
    clip.metadata()["frames_indices"].append(99)
    assert clip.metadata()["frames_indices"] == [1, 3, 5]
    assert clip.metadata()["duration"] == pytest.approx(0.6)


def refused(path: Path, *words: str, frames: Any = 4) -> None:
    with pytest.raises(ValueError) as caught:
        read_video(path, frames)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message, message
    for word in words:
        assert word in message


def test_nothing_to_read(tmp_path: Path) -> None:
    refused(tmp_path / "gone.mp4", "does not exist", "give")
    refused(tmp_path / ("a" * 300), "does not exist")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "0 bytes")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "holds no frames", "PNG")
    (tmp_path / "folder" / "notes.txt").write_text("no frame")
    refused(tmp_path / "folder", "holds no frames")


@pytest.mark.parametrize("content", [b"no video at all" * 40, b"\x00\x00\x00\x18ftypmp42" + bytes(600), b"GIF89a"])
def test_no_video(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(content)
    refused(file, "broken", "give another file")


def test_truncated_before_its_index(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", 20)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(file, "broken")


def test_truncated_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 3)
    broken = folder / "frame1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    refused(folder, "frame1.png", "broken")


def test_sound_alone(tmp_path: Path) -> None:
    refused(write_audio(tmp_path / "a.wav"), "no video stream", "audio")


def test_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    """A picture attached to a sound is a video stream to FFmpeg."""
    file = tmp_path / "a.flac"
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.png")
    with av.open(str(file), "w") as container, av.open(str(tmp_path / "cover.png")) as cover:
        sound = container.add_stream("flac", rate=8000, layout="mono")
        picture = container.add_stream_from_template(cover.streams.video[0])
        cover_of = av.stream.Disposition.attached_pic
        picture.disposition = getattr(cover_of, "value", cover_of)  # PyAV 15 takes the number alone
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        for packet in cover.demux(video=0):
            if packet.size:
                packet.stream = picture
                container.mux(packet)
        container.mux(sound.encode())
    refused(file, "no video stream")


def test_a_stream_without_frames(tmp_path: Path) -> None:
    file = tmp_path / "a.avi"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    refused(file, "without frames")


def test_frames_of_several_sizes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 2)
    Image.new("RGB", (5, 7)).save(folder / "frame2.png")
    refused(folder, "5 x 7", "64 x 48")


@pytest.mark.parametrize("frames", [0, -1, 2.5, True, "8"])
def test_wrong_number_of_frames(tmp_path: Path, frames: Any) -> None:
    with pytest.raises(ValueError, match="at least 1") as caught:
        read_video(write_folder(tmp_path / "frames", 1), frames)
    assert repr(frames) in str(caught.value)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Video files say what to install; pictures need nothing."""
    plain = builtins.__import__

    def no_av(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ImportError("No module named 'av'")
        return plain(name, *rest, **more)

    file, folder = write_video(tmp_path / "a.mp4", 2), write_folder(tmp_path / "frames", 2)
    monkeypatch.setattr(builtins, "__import__", no_av)
    refused(file, "pip install 'evoprune[video]'")
    assert isinstance(read_video(folder, 2), Clip)


@pytest.mark.parametrize("path", ["", None, b"clip.mp4", 3])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match="is no path of a video"):
        read_video(path, 2)


def test_frames_may_be_a_number_of_numpy(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", 5)
    assert len(read_video(tmp_path / "a", np.int64(2)).frames) == 2
