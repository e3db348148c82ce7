"""Picture files of every kind: what can be read is answered, what cannot is told in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evoprune.commands.errors import UserError
from evoprune.commands.pictures import LONGEST_ASPECT, open_picture

RED = (255, 0, 0)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_is_unchanged(tmp_path: Path) -> None:
    image = Image.radial_gradient("L").convert("RGB")
    assert np.array_equal(open_picture(saved(image, tmp_path / "a.png")), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5000), (5000, 1)])
def test_tiny_and_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    found = open_picture(saved(Image.new("RGB", size, RED), tmp_path / "a.png"))
    assert max(found.size) == max(size) and max(found.size) <= LONGEST_ASPECT * min(found.size)
    pixels = np.asarray(found).reshape(-1, 3)
    assert (pixels == RED).all(axis=1).sum() == size[0] * size[1]


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((1, 1), (*RED, 255))
    found = open_picture(saved(image, tmp_path / "a.png"))
    assert found.mode == "RGB"
    assert found.getpixel((0, 0)) == (255, 255, 255) and found.getpixel((1, 1)) == RED


def test_gray_with_alpha(tmp_path: Path) -> None:
    found = open_picture(saved(Image.new("LA", (2, 2), (0, 0)), tmp_path / "a.png"))
    assert found.getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, *RED])
    assert open_picture(saved(image, tmp_path / "a.png")).getpixel((0, 0)) == RED
    image.putpixel((0, 0), 0)
    found = open_picture(saved(image, tmp_path / "b.png", transparency=0))
    assert found.getpixel((0, 0)) == (255, 255, 255) and found.getpixel((1, 1)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB", "PA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    file = saved(Image.new(mode, (8, 8)), tmp_path / f"a.{'png' if mode in ('1', 'L') else 'tiff'}")
    with Image.open(file) as stored:
        assert stored.mode == mode
    assert open_picture(file).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 16384], [32768, 65535]], dtype=np.uint16)
    found = np.asarray(open_picture(saved(Image.fromarray(values), tmp_path / "a.png")))
    assert found[..., 0].tolist() == [[0, 64], [128, 255]]


def test_floats_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan]], dtype=np.float32)
    found = np.asarray(open_picture(saved(Image.fromarray(values), tmp_path / "a.tiff")))
    assert found[..., 0].tolist() == [[0, 128], [255, 0]]


def test_turned_upright_by_exif(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    assert open_picture(saved(image, tmp_path / "a.png", exif=exif)).size == (4, 8)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), (0, 0, 255))]
    file = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_picture(file).getpixel((0, 0)) == RED


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_picture(tmp_path / "gone.png")
    with pytest.raises(UserError, match="is a folder"):
        open_picture(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(30)])
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png"):
        open_picture(file)


def test_reader_that_gives_up(tmp_path: Path) -> None:
    file = saved(Image.new("RGB", (8, 8)), tmp_path / "a.dds")
    content = bytearray(file.read_bytes())
    content[80:84] = bytes(4)  # flags of the pixel format: none
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.dds is broken"):
        open_picture(file)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_truncated(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = saved(Image.fromarray(noise), tmp_path / f"a.{ending}")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"broken|no picture"):
        open_picture(file)


@pytest.mark.parametrize("limit", [20, 50])
def test_pixel_limit_is_an_error_from_the_first_pixel_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """PIL only warns up to twice its limit, and raises beyond that; here both are refused."""
    file = saved(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=f"limit of {limit} pixels"):
        open_picture(file)


def test_at_the_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert open_picture(file).size == (8, 8)
