"""The decoded images of one cache key on disk: one raw file, a table of facts, checksums.

A folder holds ``pixels.u8`` (uint8, row-major N x S x S x C), ``facts.npz`` (a row per image) and ``meta.json``,
which is written last. The pixels are checksummed in blocks of whole images.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tintype.data.index import counted, shown
from tintype.data.rowfile import BLOCK_BYTES, VERIFIED_BYTES, RowWriter, is_intact, map_rows
from tintype.errors import DataError

STORE_VERSION = 1

_SPARE_BYTES = 2**26

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
    def kinds() -> dict[str, type[np.generic]]:
        """Name and type of each array."""
        return dict(_FACTS)

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
        self._rows = RowWriter(folder / "pixels.u8", shape[0], math.prod(shape[1:]), BLOCK_BYTES)
        self.block = self._rows.block

    def put(self, start: int, images: NDArray[np.uint8]) -> None:
        """Write the block of images that begins at position ``start``, a multiple of ``block``."""
        self._rows.put(start, images)

    def add(self, start: int, images: NDArray[np.uint8]) -> None:
        """Write images that begin at any position, each once, from one thread only."""
        self._rows.add(start, images)

    def finish(self, facts: Facts, modes: Sequence[str], errors: dict[int, str]) -> None:
        """Write the facts, then the file that says that the store is whole.

        Args:
            facts: ``mode_ids`` are filled here.
            modes: Name of the mode of each image, length N.
            errors: Position of each unreadable image, and the reason; ascending.
        """
        self._rows.sync()
        mode_names = sorted(set(modes))
        places = {name: number for number, name in enumerate(mode_names)}
        facts.mode_ids[:] = [places[mode] for mode in modes]
        arrays = {name: getattr(facts, name) for name in _FACTS}
        with (self._folder / "facts.npz").open("xb") as file:
            np.savez(file, checksums=self._rows.checksums, **arrays)
        meta = {
            "version": STORE_VERSION,
            "shape": list(self._shape),
            "modes": mode_names,
            "errors": {str(i): reason for i, reason in errors.items()},
        }
        (self._folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    def close(self) -> None:
        """Release the file."""
        self._rows.close()


def open_store(folder: Path, shape: tuple[int, int, int, int], verify: bool = True) -> Stored | None:
    """Open a store and verify it; None where there is none, or where it is damaged or of another version."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["version"] != STORE_VERSION or tuple(meta["shape"]) != shape:
            return None
        with np.load(folder / "facts.npz", allow_pickle=False) as content:
            checksums = content["checksums"]
            arrays = {name: content[name] for name in _FACTS}
        pixels = map_rows(folder / "pixels.u8", shape, np.uint8)
        stored = Stored(
            pixels,
            Facts(**arrays),
            tuple(str(name) for name in meta["modes"]),
            {int(i): str(reason) for i, reason in meta["errors"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    right = all(array.shape == shape[:1] and array.dtype == _FACTS[name] for name, array in arrays.items())
    is_whole = right and (not verify or is_intact(pixels, checksums, BLOCK_BYTES, VERIFIED_BYTES))
    return stored if is_whole else None


def check_space(folder: Path, shape: tuple[int, int, int, int]) -> None:
    """Look whether a store of a shape (N, S, S, C) fits on the disk of a folder.

    Raises:
        DataError: It does not.
    """
    needed = math.prod(shape) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{counted(shape[0], 'image')} of {shape[1]}x{shape[2]} need {needed / 2**30:.1f} GiB in {shown(folder)}, "
            f"where {free / 2**30:.1f} GiB is free. Make room, choose a smaller --image-size, or set TINTYPE_CACHE to "
            "a folder on a larger disk."
        )
