"""What all files say about themselves, read in parallel before anything is decoded, and once."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.decode import DECODE_VERSION, UnreadableImageError, read_header
from tintype.data.index import ImageIndex
from tintype.data.parallel import in_slices
from tintype.records import OnProgress, silent
from tintype.rundir import atomic_path, cache_folder

__all__ = ["Headers", "files_stamp", "scan_headers"]

_ARRAY_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SLICE = 64
_WORTH_KEEPING = 500
"""Fewer files are read again in less time than it takes to look for what was kept."""


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
    kept = _kept_file(index, config) if n >= _WORTH_KEEPING else None
    if kept is not None and (found := _read_kept(kept, n)) is not None:
        return found

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
    headers = Headers(widths, heights, tuple(modes), dict(sorted(errors.items())))
    if kept is not None:
        with suppress(OSError):  # what cannot be kept is read again the next time
            _keep(kept, headers)
    return headers


def files_stamp(index: ImageIndex) -> bytes:
    """Hash of the files' names, sizes and times; a changed file has another."""
    root = str(index.root.resolve())
    digest = hashlib.blake2b(os.fsencode(root), digest_size=16)
    for path in index.paths:
        try:
            status = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 - Path takes twice as long, per image
            # The time of change catches what a copied time of modification hides.
            facts = f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\0"
        except (OSError, ValueError):
            facts = "\0missing\0"
        digest.update(os.fsencode(path) + facts.encode())
    return digest.digest()


def _kept_file(index: ImageIndex, config: DataConfig) -> Path:
    versions = f"decode {DECODE_VERSION}, Pillow {PIL.__version__}, {config.max_megapixels}"
    key = hashlib.blake2b(versions.encode() + files_stamp(index), digest_size=16).hexdigest()
    return cache_folder() / "headers" / f"{key}.npz"


def _read_kept(path: Path, n: int) -> Headers | None:
    """Headers that were kept; None where there are none or they are damaged (zip files carry checksums)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            sizes, mode_ids, words = content["sizes"], content["mode_ids"], json.loads(str(content["words"]))
        names, errors = list(words["modes"]), {int(i): str(reason) for i, reason in words["errors"].items()}
        if sizes.shape != (2, n) or sizes.dtype != np.int32 or mode_ids.shape != (n,):
            return None
        return Headers(sizes[0], sizes[1], tuple(names[number] for number in mode_ids.tolist()), errors)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _keep(path: Path, headers: Headers) -> None:
    names = sorted(set(headers.modes))
    places = {name: number for number, name in enumerate(names)}
    words = json.dumps({"modes": names, "errors": {str(i): reason for i, reason in headers.errors.items()}})
    mode_ids = np.array([places[mode] for mode in headers.modes], np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, sizes=np.stack([headers.widths, headers.heights]), mode_ids=mode_ids, words=np.array(words))
