"""Opens picture files of every kind as plain RGB."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from ..rgb import WHITE, plain_rgb
from .errors import UserError, first_line

# Processors scale the shorter side to hundreds of pixels: a 1 x 5000 strip would grow to millions on the other.
LONGEST_ASPECT = 50


def open_picture(path: str | Path) -> Image.Image:
    """Return the picture in file `path`: turned upright by its EXIF tag, transparency on white, RGB.

    A picture more than 50 times as long as wide is padded with white to that.

    Raises
    ------
    UserError
        The file is missing, no readable picture, or beyond PIL's pixel limit.
    """
    file = Path(path)
    # os.path, as a path that no file system takes (a name too long) makes pathlib raise.
    if not os.path.exists(file):
        raise UserError(f"{file} does not exist: give the path of a picture")
    if os.path.isdir(file):
        raise UserError(f"{file} is a folder: give the path of a picture in it")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as picture:
                picture.load()
                return _padded(plain_rgb(ImageOps.exif_transpose(picture)))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UserError(
                f"{file} is beyond the limit of {Image.MAX_IMAGE_PIXELS} pixels: scale the picture down"
            ) from error
        except Image.UnidentifiedImageError as error:
            raise UserError(f"{file} is no picture that can be read: give a PNG, JPEG, WebP, ...") from error
        # What PIL's readers raise for broken files.
        except (OSError, SyntaxError, ValueError, RuntimeError, IndexError, struct.error) as error:
            raise UserError(f"{file} is broken or cannot be read ({first_line(error)}): give another file") from error


def _padded(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    least = -(-max(width, height) // LONGEST_ASPECT)
    if min(width, height) >= least:
        return picture
    ground = Image.new("RGB", (max(width, least), max(height, least)), WHITE)
    ground.paste(picture, ((ground.width - width) // 2, (ground.height - height) // 2))
    return ground
