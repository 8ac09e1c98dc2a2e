"""What all files say about themselves, read in parallel before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.decode import UnreadableImageError, read_header
from tintype.data.index import ImageIndex
from tintype.data.parallel import in_slices
from tintype.records import OnProgress, silent

__all__ = ["Headers", "scan_headers"]

_ARRAY_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SLICE = 64


@dataclass(frozen=True)
class Headers:
    """Sizes and modes of the files.

    Attributes:
        widths: Pixels after EXIF orientation, int32, shape (N,); 0 for unreadable files.
        heights: Likewise.
        modes: Pillow's mode names (``RGB``, ``L``, ``P``, ...), length N; empty for unreadable files.
        errors: Position of each unreadable file, and the reason.
    """

    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    modes: tuple[str, ...]
    errors: dict[int, str]


def scan_headers(index: ImageIndex, config: DataConfig, on_progress: OnProgress = silent) -> Headers:
    """Read every file's size and mode from its first bytes.

    Files that are no images, are empty or exceed ``max_megapixels`` are found here; damage further inside a file
    shows only when it is decoded.
    """
    n = len(index)
    widths, heights = np.zeros(n, np.int32), np.zeros(n, np.int32)
    modes = [""] * n
    errors: dict[int, str] = {}
    if index.arrays is not None:
        heights[:], widths[:] = index.arrays.shape[1:3]
        channels = index.arrays.shape[3] if index.arrays.ndim == 4 else 1
        return Headers(widths, heights, (_ARRAY_MODES[channels],) * n, errors)

    def scan(start: int, stop: int, is_stopped: Callable[[], bool]) -> int:
        for i in range(start, stop):
            if is_stopped():
                break
            try:
                header = read_header(index.root / index.paths[i], config.max_megapixels)
                widths[i], heights[i], modes[i] = header.width, header.height, header.mode
            except UnreadableImageError as error:
                errors[i] = str(error)
        return stop - start

    in_slices(n, _SLICE, scan, "reading headers", on_progress)
    return Headers(widths, heights, tuple(modes), dict(sorted(errors.items())))
