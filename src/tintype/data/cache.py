"""Decode once: every image of an index as one uint8 array on disk, mapped into memory.

The first call decodes in threads; later ones open what is there. A cache is found by the files' names, sizes and
times and by the geometry, so a changed file or setting never reads a stale one. It appears whole
(:mod:`tintype.data.shelf`): a killed build leaves nothing half-read, and of two builders the second waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.decode import DECODE_VERSION, Geometry, geometry_of
from tintype.data.decoding import Decoder, check_bad
from tintype.data.headers import Headers, files_stamp, scan_headers
from tintype.data.index import ImageIndex
from tintype.data.parallel import in_slices
from tintype.data.shelf import open_or_build
from tintype.data.store import Stored, StoreWriter, check_space, open_store
from tintype.errors import DataError
from tintype.records import OnProgress, silent
from tintype.rundir import cache_folder

if TYPE_CHECKING:
    from tintype.data.team import Team
    from tintype.ranks.world import World  # imports torch, which a single process that decodes does not need

__all__ = ["Headers", "ImageCache", "build_cache", "scan_headers"]

_WHAT = "decoded images"
_WAITING = "waiting for another process that decodes the same images"


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
        sharing: How the ranks of a run shared the work, for people; empty where there was none, or a single process.
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
    sharing: str = ""


def build_cache(
    index: ImageIndex, config: DataConfig, on_progress: OnProgress = silent, world: World | None = None
) -> ImageCache:
    """Decode every image of ``index``, or open what an earlier call decoded.

    Args:
        index: The images; at least one.
        config: Resolved settings: ``image_size``, ``color`` and ``resize`` are concrete.
        on_progress: Told of decoding, and of waiting for another process that decodes the same images.
        world: Ranks that all call this with the same images (:mod:`tintype.data.same` makes sure) and share the work;
            None for a single process.

    Raises:
        DataError: Images are unreadable and ``skip_bad`` is off (all of them have been tried, and are named), none
            is readable, or the cache folder cannot be written or is too small; the same on all ranks.
        RankError: Ranks have opened caches of other images.
    """
    if not len(index):
        raise DataError("there are no images to decode.")
    geometry = geometry_of(config)
    final = cache_folder() / "images" / _key(index, geometry, config.max_megapixels)
    if world is None or world.is_alone:
        cache = _alone(index, geometry, config, final, on_progress)
    else:
        cache = _shared(index, geometry, config, final, on_progress, world)
    check_bad(cache.bad, len(index), config.skip_bad)
    return cache


def _alone(
    index: ImageIndex, geometry: Geometry, config: DataConfig, final: Path, on_progress: OnProgress
) -> ImageCache:
    stored, was_built = open_or_build(
        final,
        len(index),
        try_open=lambda verify: open_store(final, (len(index), *geometry.shape), verify),
        build=lambda folder: _build(index, geometry, config, folder, on_progress),
        what=_WHAT,
        waiting=_WAITING,
        on_progress=on_progress,
    )
    return _cache_of(index, geometry, stored, was_built)


def _shared(
    index: ImageIndex, geometry: Geometry, config: DataConfig, final: Path, on_progress: OnProgress, world: World
) -> ImageCache:
    from tintype.data.joint import build_jointly
    from tintype.data.team import open_or_build_together
    from tintype.ranks.joining import require_equal

    sharing = [""]

    def build(folder: Path | None, team: Team, held: Stored | None) -> None:
        sharing.append(build_jointly(index, geometry, config, team, folder, held, on_progress))

    stored, was_built = open_or_build_together(
        final,
        len(index),
        try_open=lambda verify: open_store(final, (len(index), *geometry.shape), verify),
        build=build,
        what=_WHAT,
        waiting=_WAITING,
        on_progress=on_progress,
        world=world,
    )
    cache = _cache_of(index, geometry, stored, was_built, sharing[-1])
    require_equal(world, "images", world.exchange(cache.fingerprint), "Copy the same data to every machine.")
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
    check_space(folder.parent, shape)
    decoder = Decoder(index, geometry, config.max_megapixels)
    with closing(StoreWriter(folder, shape)) as writer:

        def decode(start: int, stop: int, is_stopped: Callable[[], bool]) -> int:
            block = decoder.block(start, stop, is_stopped)
            if block is None:
                return 0
            writer.put(start, block)
            return stop - start

        in_slices(len(index), writer.block, decode, "decoding images", on_progress)
        errors = dict(sorted(decoder.errors.items()))
        check_bad({index.paths[i]: reason for i, reason in errors.items()}, len(index), config.skip_bad)
        writer.finish(decoder.facts, decoder.modes, errors)


def _cache_of(index: ImageIndex, geometry: Geometry, stored: Stored, was_built: bool, sharing: str = "") -> ImageCache:
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
        sharing=sharing,
    )
