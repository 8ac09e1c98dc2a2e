"""Small pictures of decoded images, ready to stand inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOSSLESS_SIDE = 64
"""Images up to this size are kept exactly, as PNG."""

JPEG_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        media_type: ``image/png`` or ``image/jpeg``.
        data: Its bytes in base64.
        width: In pixels.
        height: In pixels.
    """

    media_type: str
    data: str
    width: int
    height: int


def make_thumbnail(image_HWC: NDArray[np.uint8], side: int) -> Thumbnail:
    """Scale an image down so that its longer side has at most ``side`` pixels; smaller ones stay as they are.

    Args:
        image_HWC: uint8 with 1 or 3 channels.
        side: Longest side in pixels.
    """
    picture = Image.fromarray(image_HWC.squeeze(axis=2) if image_HWC.shape[2] == 1 else image_HWC)
    is_lossless = max(picture.size) <= LOSSLESS_SIDE
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    if is_lossless:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Thumbnail(
        "image/png" if is_lossless else "image/jpeg",
        base64.b64encode(buffer.getvalue()).decode("ascii"),
        *picture.size,
    )
