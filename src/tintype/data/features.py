"""Run frozen layers once: what they say of every image, and of its changed views, in files mapped into memory.

The images as they are and each changed view of the training images are a part, a folder, of their own: eight views
after four compute four, another training set reuses the images as they are, and what was interrupted goes on with
the next part. Parts appear whole (:mod:`tintype.data.shelf`) and are checksummed (:mod:`tintype.data.rowfile`).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tintype.data.index import ImageIndex, counted, shown
from tintype.data.rowfile import RowWriter, is_intact, map_rows
from tintype.data.shelf import META, mark_used, open_or_build, shrink
from tintype.errors import DataError
from tintype.records import OnProgress, silent
from tintype.rundir import cache_folder

if TYPE_CHECKING:
    import torch

    from tintype.data.shares import Put, Span
    from tintype.data.team import Team
    from tintype.ranks.world import World

FEATURES_VERSION = 1

FeatureRows = NDArray[np.float32 | np.uint16]
"""Features (rows, *shape): float32, or uint16 that hold the bits of bf16, which NumPy does not know."""

_ROWS = "rows.bin"
_WHAT = "features"
_WAITING = "waiting for another process that runs the same frozen layers"
_AHEAD = 2
_SPARE_BYTES = 2**26


@dataclass(frozen=True)
class FeatureCache:
    """What frozen layers said of each image.

    Attributes:
        index: The images, N of them.
        clean: (N, *shape), of each image of the index as it is, mapped read-only from disk; zeros where an image is
            not usable.
        changed: (M, *shape) for each changed view, likewise; view number v is at v - 1. Empty with one view.
        trained: Positions in the index of the training images, which changed views show: int64, shape (M,), ascending.
        is_bf16: The arrays hold the bits of bf16 as uint16; otherwise they are float32.
        was_built: False when everything was there from earlier.
        key: Tells apart everything that decides what the rows are.
        sharing: How the ranks of a run shared the work, for people; empty where there was none, or a single process.
    """

    index: ImageIndex
    clean: FeatureRows
    changed: tuple[FeatureRows, ...]
    trained: NDArray[np.int64]
    is_bf16: bool
    was_built: bool
    key: str
    sharing: str = ""

    @property
    def views(self) -> int:
        """How many versions of a training image there are, with the image as it is."""
        return 1 + len(self.changed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return self.clean.shape[1:]


@dataclass(frozen=True)
class _Part:
    """A folder: the features of ``images`` (positions in the index) in one view.

    Attributes:
        folder: Its place.
        view: 0 for the images as they are.
        images: Which are computed, ascending.
        places: The row of each in the file; rows without an image are zero.
        shape: Rows and the shape of one, as in the file.
        is_bf16: uint16 with the bits of bf16 rather than float32.
    """

    folder: Path
    view: int
    images: NDArray[np.int64]
    places: NDArray[np.int64]
    shape: tuple[int, ...]
    is_bf16: bool

    @property
    def dtype(self) -> type[np.float32] | type[np.uint16]:
        return _dtype(self.is_bf16)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> int:
        return self.shape[0] * self.row_bytes


def open_features(
    index: ImageIndex,
    key: str,
    shape: Sequence[int],
    is_bf16: bool,
    usable: NDArray[np.bool_],
    trained: NDArray[np.int64],
    views: int,
    views_key: str,
    run: Callable[[int, NDArray[np.int64]], NDArray[np.generic]],
    *,
    block_rows: int,
    most_bytes: int,
    on_progress: OnProgress = silent,
    world: World | None = None,
) -> FeatureCache:
    """Open the features of all images, computing what is not there yet.

    Args:
        index: The images.
        key: Hash, fit for a file name, of everything else that decides the features: the images' content and
            geometry, weights and boundary of the frozen layers, precision.
        shape: Of one image's features.
        is_bf16: ``run`` gives the bits of bf16 as uint16; otherwise float32.
        usable: Whether an image could be decoded, shape (N,).
        trained: (M,) positions in the index of the training images, ascending; all of them usable.
        views: How many versions of a training image are wanted, at least 1: itself and changed ones.
        views_key: Everything that decides how an image is changed in a view, besides the view's number.
        run: Called with the number of a view (0: as they are) and positions (B,); gives (B, *shape). What a row
            holds must not depend on the rows beside it.
        block_rows: How many images ``run`` is given at once.
        most_bytes: What all kept features together may take on disk. To stay below, those that were not used for the
            longest are removed.
        on_progress: Told of images and views that are to be computed, and of waiting for another process.
        world: Ranks that all call this with the same images and share the work; None for a single process.

    Raises:
        DataError: The features would take more than ``most_bytes`` or than there is room, or cannot be written; the
            same on all ranks.
    """
    assert usable.shape == (len(index),)
    parts = _parts(key, shape, is_bf16, usable, trained, views, views_key)
    folder, keep = _features_folder(), [part.folder for part in parts]
    _check_limit(sum(part.size for part in parts), most_bytes, len(index), views)
    opened = {part.view: found for part in parts if (found := _open(part)) is not None}
    lacking = {part.view for part in parts} - opened.keys()
    is_shared = world is not None and not world.is_alone
    if world is not None and is_shared:
        lacking = set().union(*world.exchange(sorted(lacking)))
    missing = [part for part in parts if part.view in lacking]
    was_built, sharing = False, ""
    if missing:
        shrink(folder, most_bytes - sum(part.size for part in missing), keep)
        work = _Work(run, block_rows, missing, on_progress)
        for part in missing:
            if world is not None and is_shared:
                opened[part.view], is_new = work.open_or_build_together(part, opened.get(part.view), world)
            else:
                opened[part.view], is_new = work.open_or_build(part)
            was_built |= is_new
        sharing = work.sharing
        shrink(folder, most_bytes, keep)  # others may have built meanwhile
    return FeatureCache(
        index=index,
        clean=opened[0],
        changed=tuple(opened[view] for view in range(1, views)),
        trained=trained,
        is_bf16=is_bf16,
        was_built=was_built,
        key=" ".join(part.folder.name for part in parts),
        sharing=sharing,
    )


def foretell(
    usable: NDArray[np.bool_], trained: NDArray[np.int64], views: int, shape: Sequence[int], is_bf16: bool
) -> int:
    """How many bytes the features take on disk; see :func:`open_features` for the arguments."""
    return sum(part.size for part in _parts("", shape, is_bf16, usable, trained, views, ""))


def missing_bytes(
    key: str,
    shape: Sequence[int],
    is_bf16: bool,
    usable: NDArray[np.bool_],
    trained: NDArray[np.int64],
    views: int,
    views_key: str,
) -> int:
    """How many of these bytes are not on disk yet; takes what :func:`open_features` takes, and looks for no damage."""
    parts = _parts(key, shape, is_bf16, usable, trained, views, views_key)
    return sum(part.size for part in parts if not (part.folder / META).is_file())


def rows(cache: FeatureCache, indices: NDArray[np.int64], views: NDArray[np.int64]) -> FeatureRows:
    """Copy the features of some images.

    Args:
        cache: What :func:`open_features` gave.
        indices: (B,) positions in the index.
        views: (B,) number of the view of each: 0 for the image as it is; others only of training images.

    Returns:
        (B, *shape), float32 or the bits of bf16.
    """
    sources = (cache.clean, *cache.changed)
    places = np.searchsorted(cache.trained, indices)
    if len(cache.trained):
        is_trained = cache.trained[np.minimum(places, len(cache.trained) - 1)] == indices
        assert (is_trained | (views == 0)).all(), "changed views are kept of training images only"
    places = np.where(views == 0, indices, places)
    found = np.empty((len(indices), *cache.shape), cache.clean.dtype)
    # Row by row: gathering from one view after the other would copy everything twice, to bring it into order.
    for row, (view, place) in enumerate(zip(views.tolist(), places.tolist(), strict=True)):
        found[row] = sources[view][place]
    return found


def bf16_bits(tensor: torch.Tensor) -> NDArray[np.uint16]:
    """A tensor's values as the bits of bf16, on the CPU, in the same shape."""
    import torch  # the rest needs none, and torch takes seconds to start

    bits: NDArray[np.uint16] = tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint16).numpy()
    return bits


def from_bits(features: FeatureRows, is_bf16: bool) -> torch.Tensor:
    """Features as a tensor, bf16 or float32, in the array's own memory; of a read-only array it is a copy."""
    import torch

    tensor = torch.from_numpy(features if features.flags.writeable else features.copy())
    return tensor.view(torch.bfloat16) if is_bf16 else tensor


def _dtype(is_bf16: bool) -> type[np.float32] | type[np.uint16]:
    return np.uint16 if is_bf16 else np.float32


def _features_folder() -> Path:
    return cache_folder() / "features"


def _parts(
    key: str,
    shape: Sequence[int],
    is_bf16: bool,
    usable: NDArray[np.bool_],
    trained: NDArray[np.int64],
    views: int,
    views_key: str,
) -> list[_Part]:
    """The images as they are, then each changed view. A folder's name tells everything that decides its content."""
    assert views >= 1
    assert (np.diff(trained) > 0).all(), "training images in ascending order, each once"
    assert usable[trained].all()
    assert views == 1 or len(trained)
    parts = []
    clean = np.flatnonzero(usable).astype(np.int64)
    for view in range(views):
        images = trained if view else clean
        places = np.arange(len(trained)) if view else clean
        count = len(trained) if view else len(usable)
        stored_as = f"{FEATURES_VERSION} {tuple(shape)} {is_bf16} {count} {views_key if view else ''} "
        digest = hashlib.blake2b(stored_as.encode() + images.tobytes(), digest_size=8).hexdigest()
        name = f"{key}-{f'view{view}' if view else 'clean'}-{digest}"
        parts.append(_Part(_features_folder() / name, view, images, places, (count, *shape), is_bf16))
    return parts


def _open(part: _Part, verify: bool = True) -> FeatureRows | None:
    """Open a part and verify it; None where there is none, or where it is damaged or of another version."""
    try:
        meta = json.loads((part.folder / META).read_text(encoding="utf-8"))
        if (meta["version"], meta["shape"]) != (FEATURES_VERSION, list(part.shape)):
            return None
        checksums = np.array(meta["checksums"], np.uint32)
        features = map_rows(part.folder / _ROWS, part.shape, part.dtype)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    if verify and not is_intact(features, checksums):
        return None
    mark_used(part.folder)
    return features


class _Work:
    """Computes missing parts one after the other, with one count for the progress of all.

    Attributes:
        sharing: How ranks shared it, as :class:`FeatureCache` has it.
    """

    def __init__(
        self,
        run: Callable[[int, NDArray[np.int64]], NDArray[np.generic]],
        batch: int,
        missing: list[_Part],
        on_progress: OnProgress,
    ) -> None:
        self._run = run
        self._batch = batch
        self._bytes_left = sum(part.size for part in missing)
        self._total = sum(len(part.images) for part in missing)
        self._done = 0
        self._on_progress = on_progress
        self.sharing = ""

    def open_or_build(self, part: _Part) -> tuple[FeatureRows, bool]:
        """A part's features, and whether they were computed here rather than by another process meanwhile."""
        features, is_new = open_or_build(
            part.folder,
            self._total,
            try_open=lambda verify: _open(part, verify),
            build=lambda folder: self._build(part, folder),
            what=_WHAT,
            waiting=_WAITING,
            on_progress=self._on_progress,
        )
        self._count(part, is_new)
        return features, is_new

    def open_or_build_together(self, part: _Part, held: FeatureRows | None, world: World) -> tuple[FeatureRows, bool]:
        """The same for a part that some ranks lack; collective. Each rank computes its share of the images."""
        from tintype.data.team import open_or_build_together

        features, is_new = open_or_build_together(
            part.folder,
            self._total,
            try_open=lambda verify: _open(part, verify) if held is None else held,
            build=lambda folder, team, theirs: self._build_together(part, folder, team, theirs),
            what=_WHAT,
            waiting=_WAITING,
            on_progress=self._on_progress,
            world=world,
        )
        self._count(part, is_new)
        return features, is_new

    def _count(self, part: _Part, is_new: bool) -> None:
        self._bytes_left -= part.size
        if not is_new:
            self._total -= len(part.images)

    def _build(self, part: _Part, folder: Path) -> None:
        with self._writer(part, folder) as writer:
            for start, block in _in_blocks(part, writer.block, self._compute(part)):
                writer.put(start, block)
            _finish(part, folder, writer)

    def _writer(self, part: _Part, folder: Path) -> closing[RowWriter]:
        _check_space(folder.parent, self._bytes_left)
        return closing(RowWriter(folder / _ROWS, part.shape[0], part.row_bytes))

    def _build_together(self, part: _Part, folder: Path | None, team: Team, held: FeatureRows | None) -> None:
        from tintype.data.shares import Rows, share_rows

        def make(spans: Sequence[Span], put: Put, tell: Callable[[], None]) -> None:
            for number, (start, stop) in enumerate(spans):
                rows = self._rows_of(part, start, stop) if held is None else held[start:stop].copy()
                put(number, rows, lambda: False)
                tell()

        def tell(rows: int) -> None:
            self._done = before + int(np.searchsorted(part.places, rows))
            self._tell()

        before = self._done
        with ExitStack() as stack:
            writer = team.together(lambda: stack.enter_context(self._writer(part, folder)) if folder else None)
            rows = Rows(part.shape[1:], part.dtype, _bounds(part, team.world), self._batch, _AHEAD)
            reason = share_rows(team, rows, make, None if writer is None else writer.add, tell)
            team.together(lambda: _finish(part, folder, writer) if writer and folder else None)
        self._done = before + len(part.images)
        self.sharing = _told(team, reason)

    def _rows_of(self, part: _Part, start: int, stop: int) -> NDArray[np.generic]:
        """Some rows of the file, computed at once; those without an image are zero."""
        first, last = np.searchsorted(part.places, [start, stop])
        block: NDArray[np.generic] = np.zeros((stop - start, *part.shape[1:]), part.dtype)
        if first < last:
            block[part.places[first:last] - start] = self._computed(part, slice(first, last))
        return block

    def _computed(self, part: _Part, chosen: slice) -> NDArray[np.generic]:
        features = self._run(part.view, part.images[chosen])
        assert features.shape == (len(part.images[chosen]), *part.shape[1:]), features.shape
        assert features.dtype == part.dtype, features.dtype
        return features

    def _compute(self, part: _Part) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]:
        """Yield rows of the file, ascending, and the features that belong there."""
        self._tell()
        for start in range(0, len(part.images), self._batch):
            chosen = slice(start, start + self._batch)
            features = self._computed(part, chosen)
            yield part.places[chosen], features
            self._done += len(features)
            self._tell()

    def _tell(self) -> None:
        self._on_progress("running the frozen layers", self._done, self._total)


def _finish(part: _Part, folder: Path, writer: RowWriter) -> None:
    """Write the file that says that the part is whole."""
    writer.sync()
    meta = {"version": FEATURES_VERSION, "shape": list(part.shape), "checksums": writer.checksums.tolist()}
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


def _bounds(part: _Part, world: World) -> tuple[int, ...]:
    """Where the rows of each rank begin, and the end: as many images for each."""
    firsts = [world.part(len(part.images), rank).start for rank in range(1, world.size)]
    return (0, *(int(part.places[first]) if first else 0 for first in firsts), part.shape[0])


def _told(team: Team, reason: str) -> str:
    world = team.world
    if team.holders:
        return f"features copied from {' and '.join(world.describe(rank) for rank in team.holders)}"
    if reason:
        return f"each machine ran the frozen layers over most images by itself: {reason}"
    return f"the frozen layers run by {world.size} ranks, each over its part of the images"


def _in_blocks(
    part: _Part, size: int, batches: Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]
) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Bring batches of any size into blocks of ``size`` rows; rows that are in no batch are zero."""
    count = part.shape[0]
    block: NDArray[np.generic] = np.zeros((min(size, count), *part.shape[1:]), part.dtype)
    first = 0
    for places, features in batches:
        while len(places):
            here = int(np.searchsorted(places, first + size))
            block[places[:here] - first] = features[:here]
            places, features = places[here:], features[here:]
            if len(places):
                yield first, block
                block[...] = 0
                first += size
    for start in range(first, count, size):
        yield start, block[: count - start]
        block[...] = 0


def _check_limit(needed: int, most_bytes: int, n: int, views: int) -> None:
    if needed > most_bytes:
        raise DataError(
            f"the features of {counted(n, 'image')} in {counted(views, 'view')} take {_size(needed)} on disk, and "
            f"fit.feature_cache_gb allows {_size(most_bytes)}. Raise it with --set fit.feature_cache_gb="
            f"{math.ceil(needed / 2**30)}, use fewer --views, or run with --no-feature-cache."
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise DataError(
            f"the features need {_size(needed + _SPARE_BYTES)} in {shown(folder)}, where {_size(free)} is free. Make "
            "room, set TINTYPE_CACHE to a folder on a larger disk, use fewer --views, or run with --no-feature-cache."
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
