"""Class folders: which images stand in a folder tree, and what its folders mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tintype.data.formats import IMAGE_EXTENSIONS, SNIFFED_BYTES, extension, is_junk, sniff
from tintype.data.index import (
    NO_SPLIT,
    SPLIT_IDS,
    ImageIndex,
    counted,
    listed,
    natural_sorted,
    shown,
    split_named,
)
from tintype.errors import DataError
from tintype.records import SPLITS, SplitName

FolderKey = tuple[int, int]
"""Device and inode: the identity of a folder whatever the links that lead to it."""


@dataclass
class _ClassFolder:
    """The images of one class in one split, as paths relative to the root."""

    split: SplitName | None
    folder: str
    class_name: str
    paths: list[str] = field(default_factory=list)


def read_folder(root: Path) -> ImageIndex:
    """Index a folder of class folders, with or without split folders above them.

    A class keeps its label id in every split, because the classes are the union over the splits. Everything below
    a class folder belongs to the class.

    Raises:
        DataError: There are no images, images lie beside the class folders, or a class folder is empty.
    """
    tops = _folders(root)
    splits = _split_folders(root, tops)
    notes: list[str] = []
    _refuse_loose(root, "", list(splits.values()) or tops)
    if splits:
        found = _in_splits(root, splits, notes)
        beside = [name for name in tops if name not in splits.values()]
        if beside:
            notes.append(f"left out: {listed(beside)}")
    else:
        found = [_ClassFolder(None, name, name) for name in tops]
    closed = _closed(root, splits, found)
    for item in found:
        item.paths = walk_images(root, f"{item.folder}/", closed)
    found = _without_empty(found, notes)
    if not found:
        raise DataError(f"{shown(root)} holds no images. A folder per class with images in it is expected.")
    return _index(root, found, list(splits.values()), notes)


def walk_images(root: Path, relative: str = "", closed: frozenset[FolderKey] = frozenset()) -> list[str]:
    """Every image below a folder, as sorted paths relative to ``root``.

    Links are followed, but no folder is entered twice and none that lies above, so a loop of links adds nothing.

    Args:
        root: Where relative paths start.
        relative: The folder below ``root`` to walk, ending in ``/`` unless it is empty.
        closed: Folders that must not be entered through a link.
    """
    images: list[str] = []
    seen: set[FolderKey] = set()
    starts = [relative]
    while starts:
        # Links wait here until every real folder has been seen, so that what is found does not depend on the order
        # in which the disk lists them.
        start = starts.pop(0)
        pending = [] if start != relative and _leads_back(root / start, closed) else [start]
        while pending:
            prefix = pending.pop()
            key = _key(root / prefix)
            if key in seen:
                continue
            seen.add(key)
            for entry in _entries(root / prefix):
                if _is_folder(entry):
                    (starts if entry.is_symlink() else pending).append(f"{prefix}{entry.name}/")
                elif is_image(entry):
                    images.append(prefix + entry.name)
        starts.sort()
    images.sort()
    return images


def is_image(entry: os.DirEntry[str]) -> bool:
    """True for files with an image's extension, and for files without any extension that begin as an image.

    A broken link with an image's extension counts: its owner is told of it when it cannot be read.
    """
    suffix = extension(entry.name)
    if suffix:
        return suffix in IMAGE_EXTENSIONS and (_is_file(entry) or entry.is_symlink())
    return _is_file(entry) and begins_as_image(entry.path)


def begins_as_image(path: str | Path) -> bool:
    """Look at a file's first bytes."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - may be a plain string from scandir
            return sniff(file.read(SNIFFED_BYTES)) is not None
    except OSError:
        return False


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_junk(entry.name))
    except OSError as error:
        raise DataError(f"cannot read the folder {shown(folder)}: {error.strerror}.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _holds_runs(entry: os.DirEntry[str]) -> bool:
    """True for the ``runs/`` that training inside the data folder leaves there; it is no class."""
    return entry.name == "runs" and any(Path(entry.path).glob("*/config.toml"))


def _folders(root: Path, relative: str = "") -> list[str]:
    """The visible folders directly below one, naturally sorted, without links that lead back above and earlier runs."""
    folder = root / relative
    entries = [entry for entry in _entries(folder) if _is_folder(entry) and not _holds_runs(entry)]
    return natural_sorted(
        entry.name for entry in entries if not (entry.is_symlink() and _leads_back(folder / entry.name, frozenset()))
    )


def _leads_back(link: Path, closed: frozenset[FolderKey]) -> bool:
    """True for a link to a closed folder or to a folder that the link itself lies in."""
    key = _key(link)
    home = link.parent.resolve()
    return key in closed or any(_key(parent) == key for parent in (home, *home.parents))


def _key(path: Path) -> FolderKey:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the folder {shown(path)}: {error.strerror}.") from None
    return status.st_dev, status.st_ino


def _split_folders(root: Path, tops: list[str]) -> dict[SplitName, str]:
    """Which folders are splits, if any: a class may be called ``train`` where nothing else looks like a split."""
    named: dict[SplitName, str] = {}
    for name in tops:
        split = split_named(name)
        if split is None:
            continue
        if split in named:
            both = listed([named[split], name])
            raise DataError(f"{shown(root)} holds two folders of {split} images: {both}. Remove or rename one.")
        named[split] = name
    named = {split: named[split] for split in SPLITS if split in named}
    nested = {split for split, name in named.items() if _folders(root, name)}
    if len(named) == len(tops):
        # Only split folders: either they hold class folders, or the class folders are missing and that is said.
        return named if nested or "train" in named else {}
    return named if "train" in nested and len(named) > 1 else {}


def _in_splits(root: Path, splits: dict[SplitName, str], notes: list[str]) -> list[_ClassFolder]:
    found = []
    for split, folder in splits.items():
        names = _folders(root, folder)
        if names or split == "train":
            _refuse_loose(root, folder, names)
            found += [_ClassFolder(split, f"{folder}/{name}", name) for name in names]
            continue
        loose = sum(1 for entry in _entries(root / folder) if is_image(entry))
        if loose:
            notes.append(f"{counted(loose, 'image')} in {shown(folder)}/ without class folders left out")
    return found


def _closed(root: Path, splits: dict[SplitName, str], found: list[_ClassFolder]) -> frozenset[FolderKey]:
    """Folders that links inside a class folder must not enter; two classes in one folder are refused."""
    owners: dict[tuple[SplitName | None, FolderKey], _ClassFolder] = {}
    for item in found:
        other = owners.setdefault((item.split, _key(root / item.folder)), item)
        if other is not item:
            raise DataError(
                f"{shown(other.folder)} and {shown(item.folder)} in {shown(root)} are one folder by a link, so their "
                "images would have two labels. Remove the link."
            )
    classes = frozenset(key for _, key in owners)
    return classes | {_key(root)} | {_key(root / name) for name in splits.values()}


def _refuse_loose(root: Path, relative: str, folders: list[str]) -> None:
    folder = root / relative
    entries = [entry for entry in _entries(folder) if not _is_folder(entry)]
    loose = natural_sorted(entry.name for entry in entries if is_image(entry))
    if not loose:
        return
    images = counted(len(loose), "image")
    if folders:
        raise DataError(
            f"{images} in {shown(folder)} {'stands' if len(loose) == 1 else 'stand'} beside the class folders: "
            f"{listed(loose, 3)}. Move them into a class folder or away."
        )
    raise DataError(
        f"{shown(folder)} holds {images} but no class folders. Put the images into a folder per class, or list them in "
        "labels.csv with the columns path,label."
    )


def _without_empty(found: list[_ClassFolder], notes: list[str]) -> list[_ClassFolder]:
    """Refuse empty class folders, but a class may be missing from the validation or test images."""
    if not any(item.paths for item in found):
        return []
    empty = [item.folder for item in found if not item.paths and item.split in (None, "train")]
    if empty:
        subject = "the class folder" if len(empty) == 1 else f"{len(empty)} class folders"
        verb = "holds" if len(empty) == 1 else "hold"
        raise DataError(f"{subject} {listed(empty)} {verb} no images. Remove the folder or add images.")
    missing = [item.folder for item in found if not item.paths]
    if missing:
        notes.append(f"without images: {listed(missing)}")
    return [item for item in found if item.paths]


def _index(root: Path, found: list[_ClassFolder], splits: list[str], notes: list[str]) -> ImageIndex:
    classes = natural_sorted({item.class_name for item in found})
    ids = {name: number for number, name in enumerate(classes)}
    found = sorted(found, key=lambda item: (_split_id(item), ids[item.class_name]))
    counts = [len(item.paths) for item in found]
    paths = tuple(path for item in found for path in item.paths)
    layout = "class folders" + (f" in {', '.join(f'{shown(name)}/' for name in splits)}" if splits else "")
    return ImageIndex(
        kind="folder",
        root=root,
        classes=tuple(classes),
        paths=paths,
        labels=np.repeat(np.array([ids[item.class_name] for item in found], dtype=np.int64), counts),
        given_split=np.repeat(np.array([_split_id(item) for item in found], dtype=np.int8), counts),
        groups=None,
        arrays=None,
        description="; ".join([f"{layout}: {counted(len(classes), 'class')}, {counted(len(paths), 'image')}", *notes]),
    )


def _split_id(item: _ClassFolder) -> int:
    return NO_SPLIT if item.split is None else SPLIT_IDS[item.split]
