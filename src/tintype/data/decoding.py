"""Images of an index decoded block by block, with what is learnt of each on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tintype.data.decode import Geometry, UnreadableImageError, decode_with_header, read_file
from tintype.data.index import ImageIndex, counted, listed, shown
from tintype.data.store import Facts
from tintype.errors import DataError

_LISTED_BAD = 20


class Decoder:
    """Decodes blocks of images, from any thread.

    Args:
        index: The images.
        geometry: What they are brought to.
        max_megapixels: Larger files are unreadable.

    Attributes:
        facts: Filled as images are decoded, but for ``mode_ids``.
        modes: Pillow's mode name of each image that was decoded, length N.
        errors: Position of each unreadable image, and the reason.
    """

    def __init__(self, index: ImageIndex, geometry: Geometry, max_megapixels: float) -> None:
        self.facts = Facts.empty(len(index))
        self.modes = [""] * len(index)
        self.errors: dict[int, str] = {}
        self._index = index
        self._geometry = geometry
        self._max_megapixels = max_megapixels
        self._ready = _as_geometry(index.arrays, geometry)

    def block(self, start: int, stop: int, is_stopped: Callable[[], bool]) -> NDArray[np.uint8] | None:
        """Decode the images from ``start`` to before ``stop``: uint8 (stop - start, S, S, C), zeros where unreadable.

        Returns:
            None when it was stopped meanwhile.
        """
        if self._ready is not None:
            return self._copied(self._ready, start, stop)
        block = np.zeros((stop - start, *self._geometry.shape), np.uint8)
        for i in range(start, stop):
            if is_stopped():
                return None
            pixels = self._decode(i)
            if pixels is not None:
                block[i - start] = pixels
        return block

    def _copied(self, ready: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint8]:
        facts, block = self.facts, ready[start:stop]
        facts.content_hash[start:stop] = [content_hash(image.tobytes()) for image in block]
        facts.usable[start:stop] = True
        facts.widths[start:stop] = facts.heights[start:stop] = self._geometry.size
        self.modes[start:stop] = ["L" if self._geometry.channels == 1 else "RGB"] * len(block)
        return block

    def _decode(self, i: int) -> NDArray[np.uint8] | None:
        facts = self.facts
        try:
            source = self._index.source(i)
            data = read_file(source) if isinstance(source, Path) else source
            facts.content_hash[i] = content_hash(data if isinstance(data, bytes) else data.tobytes())
            pixels, header = decode_with_header(data, self._geometry, self._max_megapixels)
        except UnreadableImageError as error:
            self.errors[i] = str(error)
            return None
        facts.usable[i], facts.widths[i], facts.heights[i] = True, header.width, header.height
        self.modes[i] = header.mode
        return pixels


def content_hash(data: bytes) -> int:
    """64 bits of BLAKE2b; equal bytes have equal hashes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def check_bad(bad: dict[str, str], n: int, skip_bad: bool) -> None:
    """Refuse unreadable images that are not to be left out.

    Args:
        bad: Identifier of each and the reason.
        n: How many images there are; one at least must be readable.
        skip_bad: Whether they are left out.

    Raises:
        DataError: With the names of the first.
    """
    if not bad or (skip_bad and len(bad) < n):
        return
    reasons = [f"{shown(path)} ({reason})" for path, reason in bad.items()]
    fact = f"{len(bad):,} of {counted(n, 'image')} cannot be read: {listed(reasons, _LISTED_BAD)}."
    remedy = "" if len(bad) == n else " Mend or remove them, or leave them out with --skip-bad."
    raise DataError(fact + remedy)


def _as_geometry(arrays: NDArray[np.uint8] | None, geometry: Geometry) -> NDArray[np.uint8] | None:
    """The arrays as (N, S, S, C) where they have the wanted size and channels already, so that a copy is all."""
    if arrays is None:
        return None
    images_NHWC = arrays if arrays.ndim == 4 else arrays[..., None]
    return images_NHWC if images_NHWC.shape[1:] == geometry.shape else None
