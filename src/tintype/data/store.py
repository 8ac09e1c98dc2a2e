"""The decoded images of one cache key on disk: one raw file, a table of facts, checksums.

A folder holds ``pixels.u8`` (uint8, row-major N x S x S x C), ``facts.npz`` (a row per image) and ``meta.json``,
which is written last. The pixels are checksummed in blocks of whole images.
"""

from __future__ import annotations

import json
import os
import random
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STORE_VERSION = 1
BLOCK_BYTES = 2**21
"""Pixels are written and checksummed in blocks of about this size: they fit a core's cache while in work."""

VERIFIED_BYTES = 2**31
"""A store of up to this size is verified whole whenever it is opened, of a larger one as much, at random."""

_FACTS: dict[str, type[np.generic]] = {
    "usable": np.bool_,
    "widths": np.int32,
    "heights": np.int32,
    "mode_ids": np.uint8,
    "content_hash": np.uint64,
}


@dataclass
class Facts:
    """What is known of each image besides its pixels; every array has shape (N,)."""

    usable: NDArray[np.bool_]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    mode_ids: NDArray[np.uint8]
    content_hash: NDArray[np.uint64]

    @staticmethod
    def empty(n: int) -> Facts:
        """Facts to be filled in; no image is usable yet."""
        return Facts(**{name: np.zeros(n, kind) for name, kind in _FACTS.items()})


@dataclass(frozen=True)
class Stored:
    """An opened store: pixels uint8 (N, S, S, C) mapped from disk, facts, mode names, reasons of bad images."""

    pixels: NDArray[np.uint8]
    facts: Facts
    mode_names: tuple[str, ...]
    errors: dict[int, str]


def block_images(image_bytes: int) -> int:
    """How many images a block holds."""
    return max(1, BLOCK_BYTES // image_bytes)


class StoreWriter:
    """Writes a store into a folder; blocks may come in any order and from any thread.

    Args:
        folder: An existing empty folder.
        shape: (N, S, S, C).

    Raises:
        OSError: The disk is full or cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int]) -> None:
        self._folder = folder
        self._shape = shape
        self._image_bytes = shape[1] * shape[2] * shape[3]
        self.block = block_images(self._image_bytes)
        self._checksums = np.zeros(-(-shape[0] // self.block), np.uint32)
        self._file = os.open(folder / "pixels.u8", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def put(self, start: int, images: NDArray[np.uint8]) -> None:
        """Write the block of images that begins at position ``start``, a multiple of ``block``."""
        assert start % self.block == 0
        view = np.ascontiguousarray(images).data.cast("B")
        self._checksums[start // self.block] = zlib.crc32(view)
        offset = start * self._image_bytes
        while view:
            # pwrite rather than a mapping: a full disk is an error here, and a fatal signal there.
            written = os.pwrite(self._file, view, offset)
            offset, view = offset + written, view[written:]

    def finish(self, facts: Facts, mode_names: tuple[str, ...], errors: dict[int, str]) -> None:
        """Write the facts, then the file that says that the store is whole."""
        if self._shape[0] * self._image_bytes > VERIFIED_BYTES:
            # Smaller stores are verified whole when they are opened, and need no waiting for the disk.
            os.fsync(self._file)
        arrays = {name: getattr(facts, name) for name in _FACTS}
        with (self._folder / "facts.npz").open("xb") as file:
            np.savez(file, checksums=self._checksums, **arrays)
        meta = {
            "version": STORE_VERSION,
            "shape": list(self._shape),
            "modes": list(mode_names),
            "errors": {str(i): reason for i, reason in errors.items()},
        }
        (self._folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)


def open_store(folder: Path, shape: tuple[int, int, int, int], verify: bool = True) -> Stored | None:
    """Open a store and verify it; None where there is none, or where it is damaged or of another version."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["version"] != STORE_VERSION or tuple(meta["shape"]) != shape:
            return None
        with np.load(folder / "facts.npz", allow_pickle=False) as content:
            checksums = content["checksums"]
            arrays = {name: content[name] for name in _FACTS}
        pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=shape)
        stored = Stored(
            pixels,
            Facts(**arrays),
            tuple(str(name) for name in meta["modes"]),
            {int(i): str(reason) for i, reason in meta["errors"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    right = all(array.shape == shape[:1] and array.dtype == _FACTS[name] for name, array in arrays.items())
    return stored if right and (not verify or _is_intact(stored.pixels, checksums)) else None


def _is_intact(pixels: NDArray[np.uint8], checksums: NDArray[np.uint32]) -> bool:
    block = block_images(int(np.prod(pixels.shape[1:])))
    if len(checksums) != -(-len(pixels) // block):
        return False
    most = max(1, VERIFIED_BYTES // (block * int(np.prod(pixels.shape[1:]))))
    chosen = range(len(checksums))
    sample = chosen if len(checksums) <= most else sorted(random.sample(chosen, most))

    def is_right(number: int) -> bool:
        part = pixels[number * block : (number + 1) * block]
        return zlib.crc32(part.data) == int(checksums[number])

    with ThreadPoolExecutor(2) as pool:  # zlib lets go of the interpreter
        return all(pool.map(is_right, sample))
