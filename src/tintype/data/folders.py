"""Class folders: which images stand in a folder tree, and what its folders mean."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

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
from tintype.data.walk import FolderKey, entries_of, folder_key, is_folder, is_image, leads_back, walk_images
from tintype.errors import DataError
from tintype.records import SPLITS, SplitName


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


def _holds_runs(entry: os.DirEntry[str]) -> bool:
    """True for the ``runs/`` that training inside the data folder leaves there; it is no class."""
    return entry.name == "runs" and any(Path(entry.path).glob("*/config.toml"))


def _folders(root: Path, relative: str = "") -> list[str]:
    """The visible folders directly below one, naturally sorted, without links that lead back above and earlier runs."""
    folder = root / relative
    entries = [entry for entry in entries_of(folder) if is_folder(entry) and not _holds_runs(entry)]
    return natural_sorted(
        entry.name for entry in entries if not (entry.is_symlink() and leads_back(folder / entry.name, frozenset()))
    )


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
        loose = sum(1 for entry in entries_of(root / folder) if is_image(entry))
        if loose:
            notes.append(f"{counted(loose, 'image')} in {shown(folder)}/ without class folders left out")
    return found


def _closed(root: Path, splits: dict[SplitName, str], found: list[_ClassFolder]) -> frozenset[FolderKey]:
    """Folders that links inside a class folder must not enter; two classes in one folder are refused."""
    owners: dict[tuple[SplitName | None, FolderKey], _ClassFolder] = {}
    for item in found:
        other = owners.setdefault((item.split, folder_key(root / item.folder)), item)
        if other is not item:
            raise DataError(
                f"{shown(other.folder)} and {shown(item.folder)} in {shown(root)} are one folder by a link, so their "
                "images would have two labels. Remove the link."
            )
    classes = frozenset(key for _, key in owners)
    return classes | {folder_key(root)} | {folder_key(root / name) for name in splits.values()}


def _refuse_loose(root: Path, relative: str, folders: list[str]) -> None:
    folder = root / relative
    entries = [entry for entry in entries_of(folder) if not is_folder(entry)]
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
