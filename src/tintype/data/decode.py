"""One image, safely and always the same way.

Training, evaluation, prediction and export all decode here, so they cannot disagree. The rules:

- The format is told from the content; the extension is ignored. Only a short list of formats is tried, each by
  its own Pillow plugin, so nothing that starts another program (EPS) or takes untested paths is ever reached.
- The size is read from the header and checked before any pixel is decoded.
- EXIF orientation is applied. The first frame of an animation or page of a document counts.
- Transparency is composited over white; palettes are expanded; CMYK, LAB and YCbCr become RGB. Colour profiles
  are ignored.
- More than 8 bits are scaled by range: integers by the smallest of 8, 12 and 16 bits that holds the largest
  value (12-bit sensors write 16-bit files), floats in 0..1 by 255, floats in 0..255 as they are, and anything
  else by its own minimum and maximum.
- JPEGs are scaled while they are decoded, to the smallest of 1, 1/2, 1/4, 1/8 that is not below what is needed.
- Resizing is antialiased (bicubic). ``stretch`` ignores the aspect ratio; ``crop`` scales the short side and cuts
  the centre; ``pad`` scales the long side and fills the rest with the mean colour of the two edges beside the
  fill, which draws no line that a network could learn.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tintype.data.formats import SNIFFED_BYTES, describe, sniff
from tintype.data.pixels import TURNS, Box, Geometry, as_mode, shaped
from tintype.errors import DataError

if TYPE_CHECKING:
    from tintype.config import DataConfig  # pydantic takes longer to import than an image to label

__all__ = [
    "DECODE_VERSION",
    "Geometry",
    "Header",
    "UnreadableImageError",
    "decode_image",
    "decode_with_header",
    "geometry_of",
    "read_file",
    "read_header",
]

DECODE_VERSION = 1
"""Raised whenever the same file would decode to other pixels, so that caches are rebuilt."""

LARGEST_FILE = 2**30
"""Bytes; a larger file is refused unread."""

_PLUGINS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
_ORIENTATION_TAG = 0x0112


class UnreadableImageError(DataError):
    """A file is no usable image; the message is the bare reason, to be put after the file's name."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself: size in pixels after EXIF orientation, Pillow's mode name, format."""

    width: int
    height: int
    mode: str
    format: str


def geometry_of(config: DataConfig) -> Geometry:
    """The geometry that resolved settings describe (``image_size``, ``color`` and ``resize`` must be concrete)."""
    assert config.image_size is not None, "image_size is not resolved"
    assert config.color != "auto", "color is not resolved"
    assert config.resize != "auto", "resize is not resolved"
    return Geometry(config.image_size, 1 if config.color == "grey" else 3, config.resize)


def read_header(source: Path | bytes, max_megapixels: float) -> Header:
    """Read size, mode and format without decoding a pixel.

    Raises:
        UnreadableImageError: The file is missing, no image, or larger than ``max_megapixels``; the message is the
            reason alone.
    """
    with _plain_reasons(), _stream(source) as stream:
        image = _open(stream, max_megapixels)
        return _header_of(image)


def decode_image(
    source: Path | bytes | NDArray[np.uint8], geometry: Geometry, max_megapixels: float
) -> NDArray[np.uint8]:
    """Decode one image to the given geometry, by the rules at the top of this module.

    Args:
        source: A file, a file's content, or pixels of shape (H, W) or (H, W, C) with C 1, 3 or 4.
        geometry: Size, channels and resize policy.
        max_megapixels: Larger images are refused, from their header alone.

    Returns:
        uint8, shape (S, S, C).

    Raises:
        UnreadableImageError: The image cannot be used; the message is the reason alone.
    """
    return decode_with_header(source, geometry, max_megapixels)[0]


def decode_with_header(
    source: Path | bytes | NDArray[np.uint8], geometry: Geometry, max_megapixels: float
) -> tuple[NDArray[np.uint8], Header]:
    """As :func:`decode_image`, and what the file said about itself."""
    with _plain_reasons():
        if isinstance(source, np.ndarray):
            image = _from_array(source)
            _check_size(image.size, max_megapixels)
            header = Header(image.width, image.height, image.mode, "array")
            return shaped(as_mode(image, geometry.channels), geometry, 1, (0.0, 0.0, *image.size)), header
        with _stream(source) as stream:
            return _decode_file(_open(stream, max_megapixels), geometry)


def read_file(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        UnreadableImageError: It cannot be read, is empty, too large, or no regular file.
    """
    with _plain_reasons(), _stream(path) as stream:
        return stream.read()


def _decode_file(image: ImageFile.ImageFile, geometry: Geometry) -> tuple[NDArray[np.uint8], Header]:
    mode, (width, height) = image.mode, image.size
    box: Box = (0.0, 0.0, float(width), float(height))
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        box = _draft(image, geometry)
    image.load()
    orientation = _orientation(image)  # after load: a PNG may carry its EXIF behind the pixels
    if orientation >= 5:
        width, height = height, width
    header = Header(width, height, mode, image.format or "")
    return shaped(as_mode(image, geometry.channels), geometry, orientation, box), header


@contextmanager
def _plain_reasons() -> Iterator[None]:
    """Turn whatever Pillow raises on broken input (nearly every exception there is) into one plain reason."""
    try:
        yield
    except (UnreadableImageError, AssertionError, NameError, ImportError):
        raise  # the rest are mistakes of tintype's, which must not be blamed on a file
    except Exception as error:
        raise UnreadableImageError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = " ".join(str(error).split())
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated: the file ends before its image does"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return f"damaged: {text}" if text else f"damaged ({type(error).__name__})"


def _stream(source: Path | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        if not source:
            raise UnreadableImageError("the file is empty (0 bytes)")
        return io.BytesIO(source)
    status = os.stat(source)  # noqa: PTH116 - half the cost of Path.stat, once per image
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")
    if status.st_size == 0:
        raise UnreadableImageError("the file is empty (0 bytes)")
    if status.st_size > LARGEST_FILE:
        raise UnreadableImageError(f"the file has {status.st_size / 2**30:.1f} GiB, more than 1 GiB")
    return open(source, "rb")  # noqa: PTH123 - the caller closes it


def _open(stream: IO[bytes], max_megapixels: float) -> ImageFile.ImageFile:
    # The plugin is called directly: Image.open would add a global pixel limit of its own.
    prefix = stream.read(SNIFFED_BYTES)
    name = sniff(prefix)
    if name is None:
        raise UnreadableImageError(f"not a readable image: the content is {describe(prefix)}")
    stream.seek(0)
    image = _PLUGINS[name](stream)
    _check_size(image.size, max_megapixels)
    return image


def _check_size(size: tuple[int, int], max_megapixels: float) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise UnreadableImageError(
            f"{size[0]}x{size[1]} is {megapixels:,.1f} megapixels, more than max_megapixels = {max_megapixels:g}"
        )


def _header_of(image: ImageFile.ImageFile) -> Header:
    width, height = image.size
    if _orientation(image) >= 5:
        width, height = height, width
    return Header(width, height, image.mode, image.format or "")


def _orientation(image: ImageFile.ImageFile) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(_ORIENTATION_TAG, 1)
    else:
        value = exif_orientation(image.info.get("exif", b""))
    return value if value in TURNS else 1


def exif_orientation(exif: object) -> int:
    """The orientation 1 to 8 in an EXIF block (EXIF 2.3, tag 0x0112 of IFD0), 1 where it says none.

    Pillow's own reader parses every tag and warns about damaged ones; only this one matters here.
    """
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(entries):
            tag, kind = struct.unpack_from(f"{order}HH", block, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                form = f"{order}I" if kind == 4 else f"{order}H"
                value = int(struct.unpack_from(form, block, start + 10 + 12 * entry)[0])
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _draft(image: JpegImagePlugin.JpegImageFile, geometry: Geometry) -> Box:
    """Let libjpeg scale by 1/2, 1/4 or 1/8 while decoding, never below what the resize needs."""
    width, height = image.size
    needed = (geometry.size, geometry.size)
    if geometry.resize == "pad":
        long = max(width, height)
        needed = (max(1, width * geometry.size // long), max(1, height * geometry.size // long))
    # Luma alone is decoded for a grey set; a JPEG stored as RGB has no luma to take.
    mode = "L" if geometry.channels == 1 and image.info.get("adobe_transform") != 0 else None
    drafted = image.draft(mode, needed)
    return drafted[1] if drafted else (0.0, 0.0, float(width), float(height))


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise UnreadableImageError(f"pixels must be uint8. Got {pixels.dtype}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise UnreadableImageError(f"pixels must be (H, W) or (H, W, C) with C 1, 3 or 4. Got {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))
