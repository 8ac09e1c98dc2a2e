"""Decode once: every image of an index as one uint8 array on disk, mapped into memory.

The first call decodes in threads; later ones open what is there. A cache is found by the files' names, sizes and
times and by the geometry, so a changed file or setting never reads a stale one. It appears whole
(:mod:`tintype.data.shelf`): a killed build leaves nothing half-read, and of two builders the second waits.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.decode import (
    DECODE_VERSION,
    Geometry,
    UnreadableImageError,
    decode_with_header,
    geometry_of,
    read_file,
)
from tintype.data.headers import Headers, files_stamp, scan_headers
from tintype.data.index import ImageIndex, counted, listed, shown
from tintype.data.parallel import in_slices
from tintype.data.shelf import open_or_build
from tintype.data.store import Facts, Stored, StoreWriter, open_store
from tintype.errors import DataError
from tintype.records import OnProgress, silent
from tintype.rundir import cache_folder

__all__ = ["Headers", "ImageCache", "build_cache", "scan_headers"]

_SPARE_BYTES = 2**26
_LISTED_BAD = 20


@dataclass(frozen=True)
class ImageCache:
    """The decoded images of an index.

    Attributes:
        index: The images that it was built from, in this order.
        geometry: What they were brought to.
        images: uint8, shape (N, S, S, C), mapped read-only from disk; zeros where an image is not usable.
        usable: False for unreadable images, shape (N,).
        bad: Identifier of each unreadable image, and the reason.
        widths: Pixels of the files after EXIF orientation, int32, shape (N,); 0 where not usable.
        heights: Likewise.
        modes: Pillow's mode names of the files, length N; empty where not usable.
        content_hash: BLAKE2b of a file's bytes or an array's pixels, uint64, shape (N,).
        fingerprint: Hash of identifiers, contents and geometry; it stays the same when files are copied.
        was_built: False when an earlier build was opened.
    """

    index: ImageIndex
    geometry: Geometry
    images: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    bad: dict[str, str]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    modes: tuple[str, ...]
    content_hash: NDArray[np.uint64]
    fingerprint: str
    was_built: bool


def build_cache(index: ImageIndex, config: DataConfig, on_progress: OnProgress = silent) -> ImageCache:
    """Decode every image of ``index``, or open what an earlier call decoded.

    Args:
        index: The images; at least one.
        config: Resolved settings: ``image_size``, ``color`` and ``resize`` are concrete.
        on_progress: Told of decoding, and of waiting for another process that decodes the same images.

    Raises:
        DataError: Images are unreadable and ``skip_bad`` is off (all of them have been tried, and are named), none
            is readable, or the cache folder cannot be written or is too small.
    """
    if not len(index):
        raise DataError("there are no images to decode.")
    geometry = geometry_of(config)
    shape = (len(index), *geometry.shape)
    key = _key(index, geometry, config.max_megapixels)
    final = cache_folder() / "images" / key
    stored, was_built = open_or_build(
        final,
        len(index),
        try_open=lambda verify: open_store(final, shape, verify),
        build=lambda folder: _build(index, geometry, config, folder, on_progress),
        what="decoded images",
        waiting="waiting for another process that decodes the same images",
        on_progress=on_progress,
    )
    cache = _cache_of(index, geometry, stored, was_built)
    _check_bad(cache.bad, len(index), config.skip_bad)
    return cache


def _key(index: ImageIndex, geometry: Geometry, max_megapixels: float) -> str:
    """Hash of everything that decides what a cache holds; labels do not."""
    versions = f"decode {DECODE_VERSION}, Pillow {PIL.__version__}, {geometry}, {max_megapixels}"
    digest = hashlib.blake2b(versions.encode(), digest_size=16)
    if index.arrays is not None:
        digest.update(repr(index.arrays.shape).encode())
        digest.update(np.ascontiguousarray(index.arrays).data)
        return digest.hexdigest()
    digest.update(files_stamp(index))
    return digest.hexdigest()


def _build(index: ImageIndex, geometry: Geometry, config: DataConfig, folder: Path, on_progress: OnProgress) -> None:
    """Decode into an empty folder."""
    shape = (len(index), *geometry.shape)
    _check_space(folder.parent, shape)
    writer = StoreWriter(folder, shape)
    try:
        facts, modes, errors = _decode_all(index, geometry, config.max_megapixels, writer, on_progress)
        bad = {index.paths[i]: reason for i, reason in errors.items()}
        _check_bad(bad, len(index), config.skip_bad)
        names = tuple(sorted(set(modes)))
        places = {name: number for number, name in enumerate(names)}
        facts.mode_ids[:] = [places[mode] for mode in modes]
        writer.finish(facts, names, errors)
    finally:
        writer.close()


def _decode_all(
    index: ImageIndex, geometry: Geometry, max_megapixels: float, writer: StoreWriter, on_progress: OnProgress
) -> tuple[Facts, list[str], dict[int, str]]:
    """Decode every image into the writer; unreadable ones are collected with the reason, and do not stop it."""
    n = len(index)
    facts, modes, errors = Facts.empty(n), [""] * n, dict[int, str]()
    ready = _as_geometry(index.arrays, geometry)

    def decode_one(i: int) -> NDArray[np.uint8] | None:
        try:
            source = index.source(i)
            data = read_file(source) if isinstance(source, Path) else source
            facts.content_hash[i] = _content_hash(data if isinstance(data, bytes) else data.tobytes())
            pixels, header = decode_with_header(data, geometry, max_megapixels)
        except UnreadableImageError as error:
            errors[i] = str(error)
            return None
        facts.usable[i], facts.widths[i], facts.heights[i] = True, header.width, header.height
        modes[i] = header.mode
        return pixels

    def decode_block(start: int, stop: int, is_stopped: Callable[[], bool]) -> int:
        if ready is None:
            block = np.zeros((stop - start, *geometry.shape), np.uint8)
            for i in range(start, stop):
                if is_stopped():
                    return i - start
                pixels = decode_one(i)
                if pixels is not None:
                    block[i - start] = pixels
        else:
            block = ready[start:stop]
            facts.content_hash[start:stop] = [_content_hash(image.tobytes()) for image in block]
        writer.put(start, block)
        return stop - start

    if ready is not None:
        facts.usable[:], facts.widths[:], facts.heights[:] = True, geometry.size, geometry.size
        modes = ["L" if geometry.channels == 1 else "RGB"] * n
    in_slices(n, writer.block, decode_block, "decoding images", on_progress)
    return facts, modes, dict(sorted(errors.items()))


def _content_hash(data: bytes) -> int:
    """64 bits of BLAKE2b; equal bytes have equal hashes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _as_geometry(arrays: NDArray[np.uint8] | None, geometry: Geometry) -> NDArray[np.uint8] | None:
    """The arrays as (N, S, S, C) where they have the wanted size and channels already, so that a copy is all."""
    if arrays is None:
        return None
    images_NHWC = arrays if arrays.ndim == 4 else arrays[..., None]
    return images_NHWC if images_NHWC.shape[1:] == geometry.shape else None


def _cache_of(index: ImageIndex, geometry: Geometry, stored: Stored, was_built: bool) -> ImageCache:
    facts = stored.facts
    digest = hashlib.blake2b(repr(geometry).encode(), digest_size=16)
    digest.update("\0".join(index.paths).encode("utf-8", "surrogateescape"))
    digest.update(facts.content_hash.tobytes())
    return ImageCache(
        index=index,
        geometry=geometry,
        images=stored.pixels,
        usable=facts.usable,
        bad={index.paths[i]: reason for i, reason in stored.errors.items()},
        widths=facts.widths,
        heights=facts.heights,
        modes=tuple(stored.mode_names[i] for i in facts.mode_ids.tolist()),
        content_hash=facts.content_hash,
        fingerprint=digest.hexdigest(),
        was_built=was_built,
    )


def _check_bad(bad: dict[str, str], n: int, skip_bad: bool) -> None:
    if not bad or (skip_bad and len(bad) < n):
        return
    reasons = [f"{shown(path)} ({reason})" for path, reason in bad.items()]
    fact = f"{len(bad):,} of {counted(n, 'image')} cannot be read: {listed(reasons, _LISTED_BAD)}."
    remedy = "" if len(bad) == n else " Mend or remove them, or leave them out with --skip-bad."
    raise DataError(fact + remedy)


def _check_space(folder: Path, shape: tuple[int, int, int, int]) -> None:
    needed = int(np.prod(shape, dtype=np.int64)) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{counted(shape[0], 'image')} of {shape[1]}x{shape[2]} need {needed / 2**30:.1f} GiB in {shown(folder)}, "
            f"where {free / 2**30:.1f} GiB is free. Make room, choose a smaller --image-size, or set TINTYPE_CACHE to "
            "a folder on a larger disk."
        )
