"""Pictures of every mode as plain RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

WHITE = (255, 255, 255)


def plain_rgb(picture: Image.Image) -> Image.Image:
    """Return `picture` as RGB: transparency on white, 16 bits, 32 bits and floats scaled to 8 bits."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (*WHITE, 255))
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16 bits, 32 bits or floats a pixel to 8 bits; plain `convert` would clip everything above 255 to white."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    top = values.max(initial=0.0)
    if picture.mode.startswith("I;16") or (255 < top <= 65535):
        scale = 65535.0
    elif top <= 1:
        scale = 1.0
    else:
        scale = max(top, 255.0)
    return Image.fromarray(np.clip(np.rint(values / scale * 255), 0, 255).astype(np.uint8))
