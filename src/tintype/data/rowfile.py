"""Rows of equal length in one raw file, with a CRC-32 for each block of whole rows.

The file holds the rows and nothing else; who writes it keeps the checksums where it keeps its other facts.
"""

from __future__ import annotations

import math
import os
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**21
"""Rows are written and checksummed in blocks of about this size: they fit a core's cache while in work."""

VERIFIED_BYTES = 2**31
"""A file of up to this size is verified whole whenever it is opened, of a larger one as much, at random."""

T = TypeVar("T", bound=np.generic)


def block_rows(row_bytes: int, block_bytes: int = BLOCK_BYTES) -> int:
    """How many rows a block holds; at least one."""
    return max(1, block_bytes // row_bytes)


class RowWriter:
    """Writes a new file; blocks may come in any order and from any thread.

    Args:
        path: The file, which must not exist yet.
        rows: How many rows it will hold.
        row_bytes: Length of each.
        block_bytes: About how much a checksum covers.

    Attributes:
        block: Rows in a block; the last one may hold fewer.
        checksums: CRC-32 of each block written so far, uint32, shape (blocks,).

    Raises:
        OSError: The disk is full or cannot be written.
    """

    def __init__(self, path: Path, rows: int, row_bytes: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.block = block_rows(row_bytes, block_bytes)
        self.checksums = np.zeros(-(-rows // self.block), np.uint32)
        self._count = rows
        self._row_bytes = row_bytes
        self._parts: dict[int, tuple[NDArray[Any], int]] = {}
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def put(self, start: int, rows: NDArray[Any]) -> None:
        """Write the block of rows that begins at position ``start``, a multiple of ``block``."""
        assert start % self.block == 0
        view = np.ascontiguousarray(rows).data.cast("B")
        self.checksums[start // self.block] = zlib.crc32(view)
        offset = start * self._row_bytes
        while view:
            # pwrite rather than a mapping: a full disk is an error here, and a fatal signal there.
            written = os.pwrite(self._file, view, offset)
            offset, view = offset + written, view[written:]

    def add(self, start: int, rows: NDArray[Any]) -> None:
        """Write rows that begin at any position, each row once; from one thread only.

        A block is written when its last row has come; until then its rows wait in memory. When k sources each give
        theirs in order, at most 2 k blocks wait.
        """
        while len(rows):
            number, offset = divmod(start, self.block)
            length = min(self.block, self._count - number * self.block)
            here = rows[: length - offset]
            if len(here) == length:
                self.put(start, here)
            else:
                block, filled = self._parts.pop(number, (None, 0))
                block = np.empty((length, *rows.shape[1:]), rows.dtype) if block is None else block
                block[offset : offset + len(here)] = here
                filled += len(here)
                if filled == length:
                    self.put(number * self.block, block)
                else:
                    self._parts[number] = block, filled
            start, rows = start + len(here), rows[len(here) :]

    def sync(self) -> None:
        """Wait until the rows are on the disk, where the file is too large to be verified whole when opened."""
        assert not self._parts, f"blocks {sorted(self._parts)} lack rows"
        if self._count * self._row_bytes > VERIFIED_BYTES:
            os.fsync(self._file)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)


def map_rows(path: Path, shape: tuple[int, ...], dtype: type[T]) -> NDArray[T]:
    """The file's rows as a read-only array of ``shape`` (rows first), mapped from disk.

    Raises:
        OSError: There is no such file.
        ValueError: It is too short.
    """
    # A plain array: each indexing of a memmap costs microseconds more.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))


def is_intact(
    mapped: NDArray[Any],
    checksums: NDArray[np.uint32],
    block_bytes: int = BLOCK_BYTES,
    verified_bytes: int = VERIFIED_BYTES,
) -> bool:
    """Whether the rows are those that were checksummed; of large files only a part is looked at, at random.

    Args:
        mapped: What :func:`map_rows` gave.
        checksums: What the writer said, uint32, shape (blocks,).
        block_bytes: What the writer was given.
        verified_bytes: How much to read at most.
    """
    row_bytes = math.prod(mapped.shape[1:]) * mapped.itemsize
    block = block_rows(row_bytes, block_bytes)
    if len(checksums) != -(-len(mapped) // block):
        return False
    most = max(1, verified_bytes // (block * row_bytes))
    chosen = range(len(checksums))
    sample = chosen if len(checksums) <= most else sorted(random.sample(chosen, most))

    def is_right(number: int) -> bool:
        part = mapped[number * block : (number + 1) * block]
        return zlib.crc32(part.data) == int(checksums[number])

    with ThreadPoolExecutor(2) as pool:  # zlib lets go of the interpreter
        return all(pool.map(is_right, sample))
