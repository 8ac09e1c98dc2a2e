"""Every image below a folder, whatever links there are, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tintype.data.formats import IMAGE_EXTENSIONS, SNIFFED_BYTES, extension, is_junk, sniff
from tintype.data.index import shown
from tintype.data.nameset import NameSet
from tintype.errors import DataError

SORTED_AT_ONCE = 65_536
"""Names of one folder that are held to be sorted, 5 MiB; a larger folder comes in sorted parts, as the disk has it."""

FolderKey = tuple[int, int]
"""Device and inode: the identity of a folder whatever the links that lead to it."""


def walk_images(root: Path, relative: str = "", closed: frozenset[FolderKey] = frozenset()) -> list[str]:
    """Every image below a folder, as sorted paths relative to ``root``; see :func:`iter_images`."""
    return sorted(iter_images(root, relative, closed))


def iter_images(root: Path, relative: str = "", closed: frozenset[FolderKey] = frozenset()) -> Iterator[str]:
    """Every image below a folder, as paths relative to ``root``, in memory that does not grow with their number.

    They are sorted, but for folders of more than :data:`SORTED_AT_ONCE` names, which come in sorted parts, and folders
    that links lead to, which come last. Links are followed, but no folder is entered twice and none that lies above,
    so a loop of links adds nothing.

    Args:
        root: Where relative paths start.
        relative: The folder below ``root`` to walk, ending in ``/`` unless it is empty.
        closed: Folders that must not be entered through a link.

    Raises:
        DataError: A folder cannot be read.
    """
    seen = NameSet()
    starts = [relative]
    while starts:
        # Links wait here until every real folder has been seen, so that what is found does not depend on the order
        # in which the disk lists them.
        start = starts.pop(0)
        if start != relative and leads_back(root / start, closed):
            continue
        links: list[str] = []
        yield from _below(root, start, seen, links)
        starts = sorted(starts + links)


def in_order(items: Iterator[str], key: Callable[[str], Any] | None = None) -> Iterator[str]:
    """Texts sorted by ``key``; more than :data:`SORTED_AT_ONCE` of them in sorted parts."""
    while part := list(islice(items, SORTED_AT_ONCE)):
        part.sort(key=key)
        yield from part


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


def entries_of(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, without hidden files and what systems leave beside images.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_junk(entry.name))
    except OSError as error:
        raise DataError(f"cannot read the folder {shown(folder)}: {error.strerror}.") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """True for folders and links to them."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def leads_back(link: Path, closed: frozenset[FolderKey]) -> bool:
    """True for a link to a closed folder or to a folder that the link itself lies in."""
    key = folder_key(link)
    home = link.parent.resolve()
    return key in closed or any(folder_key(parent) == key for parent in (home, *home.parents))


def folder_key(path: Path) -> FolderKey:
    """A folder's identity.

    Raises:
        DataError: It cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the folder {shown(path)}: {error.strerror}.") from None
    return status.st_dev, status.st_ino


def _below(root: Path, start: str, seen: NameSet, links: list[str]) -> Iterator[str]:
    """Images below one folder, links to folders put aside; a stack of folders, since trees may be a thousand deep."""
    stack = [(start, in_order(_names(root, start, seen, links)))]
    while stack:
        prefix, names = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
        elif name.endswith("/"):
            below = prefix + name
            stack.append((below, in_order(_names(root, below, seen, links))))
        else:
            yield prefix + name


def _names(root: Path, prefix: str, seen: NameSet, links: list[str]) -> Iterator[str]:
    """Names of a folder's images and, with a slash, of the folders in it; nothing where it was seen before.

    So written they sort as the whole paths do.
    """
    if not seen.add("{}:{}".format(*folder_key(root / prefix))):
        return
    for entry in entries_of(root / prefix):
        if is_folder(entry):
            if entry.is_symlink():
                links.append(f"{prefix}{entry.name}/")
            else:
                yield f"{entry.name}/"
        elif is_image(entry):
            yield entry.name


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
