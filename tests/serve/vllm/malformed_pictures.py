"""Requests whose picture is none, is not there, or is no business of a request."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

from .serving import chat, data_url, image
from .wrong import QUESTION, Wrong

SIDE = 20_000  # pixels a side of a picture that no server should unpack


def pictures(picture: Image.Image) -> Iterator[Wrong]:
    """Data that is no picture, or not all of one."""
    whole = data_url(picture)
    png, jpeg = BytesIO(), BytesIO()
    picture.save(png, "PNG")
    picture.save(jpeg, "JPEG")
    cut = {"PNG": png.getvalue(), "JPEG": jpeg.getvalue()}
    urls = {f"base64 cut at {end}": whole[:end] for end in (30, 199, 200, 201, 202, 1001)}
    urls |= {f"{kind} cut at {share}": data_url(data[: int(len(data) * share)])
             for kind, data in cut.items() for share in (0.02, 0.25, 0.5, 0.75, 0.9)}  # fmt: skip
    urls |= {
        "nothing": "data:image/png;base64,",
        "no comma": "data:image/png;base64",
        "no base64": "data:image/png,abc",
    }
    urls |= {
        "bare data": "data:",
        "no mime": "data:,",
        "odd letters": "data:image/png;base64,!!!!",
        "spaces": "data:image/png;base64,    ",
    }
    for name, data in {
        "zero bytes": b"", "text": b"hello world", "one byte": b"\x89", "PDF": b"%PDF-1.4\n%%EOF",
        "HTML": b"<html></html>",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "numpy": b"\x93NUMPY\x01\x00", "zip": b"PK\x03\x04" + b"\0" * 40, "pickle": b"\x80\x04K\x05.",
        "noise": bytes(range(256)) * 9,
        "MP4": b"\0\0\0\x18ftypmp42" + b"\0" * 64, "GIF without frames": b"GIF89a\x01\0\x01\0\0\0\0;",
        "WebP cut": b"RIFF\x24\0\0\0WEBPVP8 ",
        "20,000 px square": png_of(SIDE, SIDE), "20,000 px square, first row only": png_of(SIDE, SIDE, rows=1),
        "2**31 px": png_of(2**31 - 1, 2**31 - 1, rows=0), "no pixels": png_of(0, 0, rows=0),
        "no height": png_of(5, 0, rows=0),
    }.items():  # fmt: skip
        urls[name] = data_url(data)
    for name, url in urls.items():
        yield Wrong(f"picture: {name}", chat(image(url), QUESTION))
    for size in ((1, 20_000), (20_000, 1), (99, 20_000), (1, 201)):
        thread = data_url(picture.resize(size))
        yield Wrong(f"picture: {size} pixels", chat(image(thread), QUESTION), says="more than 200 times as long")
    for name in ("zero bytes", "20,000 px square", "base64 cut at 201"):
        yield Wrong(f"second picture: {name}", chat(image(whole), image(urls[name]), QUESTION))


def addresses(picture: Image.Image) -> Iterator[Wrong]:
    """Files of the server, hosts of its own network, and what no loader knows."""
    inside = "is inside the server's own network"
    for url, says in {
        "file:///etc/passwd": "cannot be read", "file://localhost/etc/hosts": "cannot be read", "file:etc/passwd": "",
        "FILE:///etc/passwd": "", "file:///": "", "/etc/passwd": "", "etc/passwd": "", "~/.ssh/id_rsa": "",
        "http://127.0.0.1:1/a.png": inside, "http://localhost:22/": inside, "https://127.0.0.1/": inside,
        "HTTP://127.0.0.1/": inside,
        "http://169.254.169.254/latest/meta-data": inside, "http://10.0.0.1/a.png": inside,
        "http://192.168.1.1/": inside,
        "http://[::1]:1/": inside, "http://0/": inside, "http://2130706433/": inside, "http://0x7f000001/": inside,
        "http://user:secret@127.0.0.1/": inside, "http://127.0.0.1\\@example.com/": inside,
        "http://[::ffff:127.0.0.1]/": inside,
        "http://no.such.host.invalid/a.png": "cannot be found", "http:///": "cannot be found", "http://[bad": "",
        f"http://{'a' * 300}/": "cannot be found", "ftp://127.0.0.1/a.png": "", "gopher://127.0.0.1/": "",
        "javascript:1": "",
        "//127.0.0.1/a.png": "", "hello": "", " ": "", "\x00": "", "http://127.0.0.1/\r\nHost: x": inside,
        "blob:x": "",
    }.items():  # fmt: skip
        yield Wrong(f"address {url!r:.40}", chat(image(url), QUESTION), says=says)


def parts(picture: Image.Image) -> Iterator[Wrong]:
    """Text where a picture belongs, a picture where text belongs, and neither."""
    url = data_url(picture)
    for part in (
        {"type": "image_url", "image_url": "hello"}, {"type": "image_url", "image_url": 5},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {}}, {"type": "image_url", "image_url": {"url": 5}},
        {"type": "image_url", "image_url": []},
        {"type": "image_url", "image_url": {"url": None}}, {"type": "image_url", "image_url": {"url": [url]}},
        {"type": "image_url"},
        {"type": "image_url", "text": "What?"}, {"type": "image_url", "image_url": {"text": "What?"}},
        {"type": "text", "text": url * 5},
        {"type": "image_pil", "image_pil": []}, {"type": "image", "image": "x"},
        {"type": "image_embeds", "image_embeds": "aaaa"},
        {"type": "image_embeds", "image_embeds": {"a": 5}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,aaaa"}},
        {"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}, {"type": "wizard", "wizard": 1},
        {"type": 5}, {"type": None},
        {}, 5, None, [], [url], True, {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,aaaa"}},
    ):  # fmt: skip
        yield Wrong(f"part {part!r:.60}", chat(part, QUESTION))
    for name in (
        "/etc/passwd",
        "http://127.0.0.1/a.png",
        url,
        5,
        ["/etc/passwd"],
        [[1, 2], [3, 4]],
    ):  # transformers would open the names
        part = {"type": "image_pil", "image_pil": name}
        yield Wrong(f"part {part!r:.60}", chat(part, QUESTION), says="came as")


def png_of(width: int, height: int, rows: int | None = None) -> bytes:
    """Return a black PNG of a size that need not be in memory here; with `rows`, of no more than these."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(1 + min(width, SIDE))
    pixels = b"".join([packer.compress(row) for _ in range(height if rows is None else rows)] + [packer.flush()])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
