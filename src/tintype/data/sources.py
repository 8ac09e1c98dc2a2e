"""What DATA may be, recognised and said: class folders, a manifest, idx files or an ``.npz``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tintype.config import DataConfig, SourceKind
from tintype.data.arrays import idx_files, read_idx_folder, read_npz
from tintype.data.folders import read_folder
from tintype.data.formats import IMAGE_EXTENSIONS
from tintype.data.index import NO_SPLIT, UNLABELLED, ImageIndex, counted, listed, shown
from tintype.data.manifests import MANIFEST_NAMES, read_manifest
from tintype.data.paths import find_images
from tintype.errors import DataError

__all__ = ["ImageIndex", "index_paths", "read_index", "relabel", "with_classes"]

_EXPECTED = (
    "DATA is a folder of class folders (with or without train/, val/, test/), a CSV or Parquet manifest "
    "(path,label[,split][,group]), a folder of idx files, or an .npz."
)
_READERS = {"folder": read_folder, "manifest": read_manifest, "idx": read_idx_folder, "npz": read_npz}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def read_index(config: DataConfig, minimum_classes: int = 2) -> ImageIndex:
    """List the images of ``config.source`` with their labels, splits and groups; no pixel is decoded.

    Args:
        config: Its ``source``, ``kind`` (``auto`` recognises it) and ``classes`` are used.
        minimum_classes: 2 for training; evaluation may look at images of a single class.

    Raises:
        DataError: The source is missing, of no known kind, or cannot be used; the message says what to do.
    """
    source = Path(config.source).expanduser()
    if not config.source or not os.path.exists(source):  # noqa: PTH110 - Path.exists raises on names too long
        raise DataError(_missing(config.source))
    try:
        kind, place = _recognised(source) if config.kind == "auto" else (config.kind, _start(config.kind, source))
        index = _READERS[kind](place)
    except OSError as error:
        raise DataError(f"cannot read {shown(source)}: {error.strerror or error}.") from None
    if config.classes is not None:
        index = with_classes(index, config.classes)
    _check_classes(index, minimum_classes)
    return index


def with_classes(index: ImageIndex, classes: Sequence[str]) -> ImageIndex:
    """The images of some classes alone; images without a label stay.

    Raises:
        DataError: There is no such class.
    """
    unknown = [name for name in classes if name not in index.classes]
    if unknown:
        raise DataError(f"there is no class {listed(unknown)}. There are: {listed(index.classes, 20)}.")
    kept = [name for name in index.classes if name in classes]
    table = np.array([kept.index(name) if name in kept else len(kept) for name in index.classes] + [UNLABELLED])
    labels = table[index.labels]  # -1 picks the last
    rows = np.flatnonzero(labels < len(kept))
    return replace(
        index,
        classes=tuple(kept),
        paths=tuple(index.paths[row] for row in rows),
        labels=labels[rows].astype(np.int64),
        given_split=index.given_split[rows],
        groups=None if index.groups is None else tuple(index.groups[row] for row in rows),
        arrays=None if index.arrays is None else index.arrays[rows],
        description=f"{index.description}; {counted(len(rows), 'image')} of {listed(kept)}",
    )


def index_paths(paths: Sequence[str | Path]) -> ImageIndex:
    """List unlabelled images; see :func:`tintype.data.paths.find_images`.

    Raises:
        DataError: A path does not exist, a pattern or folder holds no images, or it is a web address.
    """
    found = tuple(find_images(paths))
    n = len(found)
    return ImageIndex(
        kind="folder",
        root=Path(),
        classes=(),
        paths=found,
        labels=np.full(n, UNLABELLED, dtype=np.int64),
        given_split=np.full(n, NO_SPLIT, dtype=np.int8),
        groups=None,
        arrays=None,
        description=f"{counted(n, 'image')} without labels",
    )


def relabel(index: ImageIndex, classes: Sequence[str]) -> ImageIndex:
    """Map labels onto a model's class names, so that label ids mean what the model means by them.

    Raises:
        DataError: The images have a class that the model does not know.
    """
    unknown = [name for name in index.classes if name not in classes]
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        raise DataError(
            f"{listed(unknown, 10)} {verb} unknown to the model, which knows {listed(list(classes), 20)}. Rename or "
            "leave out what it cannot know."
        )
    place = {name: number for number, name in enumerate(classes)}
    table = np.array([*(place[name] for name in index.classes), UNLABELLED], dtype=np.int64)
    return replace(index, classes=tuple(classes), labels=table[index.labels])  # -1 picks the last


def _recognised(source: Path) -> tuple[SourceKind, Path]:
    """The kind of a source and where its reader starts."""
    suffix = source.suffix.lower()
    if source.is_dir():
        manifests = [name for name in MANIFEST_NAMES if (source / name).is_file()]
        if len(manifests) > 1:
            raise DataError(f"{shown(source)} holds {listed(manifests)}. Name the one to use.")
        if manifests:
            return "manifest", source / manifests[0]
        if idx_files(source):
            return "idx", source
        archives = [path for path in source.glob("*.npz") if not path.name.startswith(".")]
        if len(archives) == 1 and not any(path.is_dir() for path in source.iterdir()):
            return "npz", archives[0]
        return "folder", source
    if suffix in (".csv", ".tsv", ".parquet"):
        return "manifest", source
    if suffix == ".npz":
        return "npz", source
    if source in idx_files(source.parent):
        return "idx", source.parent
    if suffix in _ARCHIVES:
        raise DataError(f"{shown(source)} is an archive. Unpack it and give the folder.")
    if suffix in IMAGE_EXTENSIONS:
        raise DataError(f"{shown(source)} is a single image. {_EXPECTED}")
    raise DataError(f"{shown(source)} is of no known kind. {_EXPECTED}")


def _start(kind: SourceKind, source: Path) -> Path:
    """Where the reader of a demanded kind starts."""
    if kind in ("folder", "idx"):
        if not source.is_dir():
            raise DataError(f"{shown(source)} is a file, but the kind {kind} needs a folder.")
        return source
    if source.is_dir():
        names = MANIFEST_NAMES if kind == "manifest" else tuple(sorted(path.name for path in source.glob("*.npz")))
        there = [name for name in names if (source / name).is_file()]
        if len(there) != 1:
            raise DataError(f"{shown(source)} holds {listed(there) or f'no {kind}'}. Name the file to use.")
        return source / there[0]
    return source


def _missing(source: str) -> str:
    if not source:
        return f"no DATA was given. {_EXPECTED}"
    if "://" in source:
        return f"{shown(source)} is a web address, and tintype fetches nothing. Download it first. {_EXPECTED}"
    if os.path.lexists(source):
        return f"{shown(source)} is a link to something that does not exist. Mend the link."
    return f"there is no file or folder {shown(source)}. {_EXPECTED}"


def _check_classes(index: ImageIndex, minimum_classes: int) -> None:
    present = set(np.unique(index.labels).tolist())
    empty = [name for number, name in enumerate(index.classes) if number not in present]
    if empty:
        raise DataError(f"{shown(index.root)} has no image of {listed(empty)}. Remove the class or add images.")
    if len(index.classes) < minimum_classes:
        names = f": {listed(index.classes)}" if index.classes else ""
        hint = ""
        if index.kind == "folder" and len(index.classes) == 1:
            inner = {path.split("/")[1] for path in index.paths if path.count("/") > 1}
            if inner:
                hint = f" Did you mean {shown(index.root / index.paths[0].split('/')[0])}?"
        raise DataError(
            f"{shown(index.root)} has {counted(len(index.classes), 'class')}{names}. A classifier needs at least "
            f"{minimum_classes}.{hint}"
        )
