"""From an opened image of any mode and size to the array that a geometry asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation; 1 needs nothing."""

_REDUCING_GAP = 2.0

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels; fractions are meant."""


@dataclass(frozen=True)
class Geometry:
    """What every image is brought to.

    Attributes:
        size: Side of the square in pixels.
        channels: 1 (grey) or 3 (RGB).
        resize: What happens to images that are not square.
    """

    size: int
    channels: int
    resize: Literal["stretch", "crop", "pad"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, S, C)."""
        return (self.size, self.size, self.channels)


def as_mode(image: Image.Image, channels: int) -> Image.Image:
    """Bring any mode to ``L`` or ``RGB``."""
    target = "L" if channels == 1 else "RGB"
    if image.mode == target and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(scale_range(np.asarray(image)))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = _over_white(image)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # palettes, CMYK, YCbCr, LAB
    return image if image.mode == target else image.convert(target)


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def scale_range(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Bring grey levels of more than 8 bits to 0..255, by the rule in :mod:`tintype.data.decode`.

    Args:
        values: Integers or floats of any shape; what is not finite counts as the smallest value.
    """
    levels = values.astype(np.float64)
    finite = np.isfinite(levels)
    if not finite.any():
        return np.zeros(levels.shape, np.uint8)
    low, high = float(levels[finite].min()), float(levels[finite].max())
    levels = np.where(finite, levels, low)
    if low >= 0 and np.issubdtype(values.dtype, np.integer) and high < 2**16:
        full = 255.0 if high < 2**8 else 4095.0 if high < 2**12 else 65535.0
        low = 0.0
    elif low >= 0 and high <= 255 and not np.issubdtype(values.dtype, np.integer):
        full = 1.0 if high <= 1 else 255.0
        low = 0.0
    else:
        full = high - low or 1.0
    return np.rint((levels - low) / full * 255).astype(np.uint8)


def shaped(image: Image.Image, geometry: Geometry, orientation: int, box: Box) -> NDArray[np.uint8]:
    """Resize, turn upright and pad.

    Every policy treats both axes alike, so a small image is turned instead of a large one. ``box`` is the part
    of the image in use, in its pixels: a JPEG scaled while decoding ends at a fraction of one.
    """
    size = geometry.size
    width, height = box[2] - box[0], box[3] - box[1]
    target = (size, size)
    if geometry.resize == "crop":
        side = min(width, height)
        left, top = box[0] + (width - side) / 2, box[1] + (height - side) / 2
        box = (left, top, left + side, top + side)
    elif geometry.resize == "pad":
        scale = size / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = image.resize(target, Image.Resampling.BICUBIC, box, _REDUCING_GAP)
    if orientation in TURNS:
        small = small.transpose(TURNS[orientation])
    pixels = np.array(small).reshape(small.height, small.width, geometry.channels)
    return pixels if pixels.shape == geometry.shape else _padded(pixels, size)


def _padded(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width, channels = pixels.shape
    edges = pixels[[0, -1]] if height < size else pixels[:, [0, -1]]
    fill = np.rint(edges.reshape(-1, channels).mean(axis=0)).astype(np.uint8)
    square = np.empty((size, size, channels), np.uint8)
    square[:] = fill
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
