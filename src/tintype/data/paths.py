"""Images without labels, by name: files, folders, patterns and lists of names, streamed so that a million fit."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tintype.data.formats import IMAGE_EXTENSIONS, extension
from tintype.data.index import natural_key, shown
from tintype.data.nameset import NameSet
from tintype.data.walk import begins_as_image, in_order, iter_images
from tintype.errors import DataError

_ADDRESSES = ("http://", "https://", "ftp://", "s3://", "gs://")
_CHUNK = 65_536
_LONGEST = 4096  # PATH_MAX of Linux


def find_images(paths: Sequence[str | Path]) -> Iterator[str]:
    """Names of images: files, folders with everything below them, and glob patterns.

    Names are the paths as given (for folders and patterns, what they led to), relative to the current folder; each
    comes once. A file that is named explicitly is taken whatever its name says. Of a folder no more is held than
    :data:`tintype.data.walk.SORTED_AT_ONCE` names, of a pattern those of the folder that it is about to match; where
    several paths are given, eight bytes for each image besides.

    Raises:
        DataError: At once: a path does not exist, a pattern or folder holds no images, or it is a web address. While
            going through them: a folder cannot be read.
    """
    given = [str(path) for path in paths]
    if not given:
        raise DataError("no images were named. Give image files, folders or patterns such as 'photos/*.jpg'.")
    for one in given:
        next(_images_at(one, is_sorted=False))
    return _images_at(given[0]) if len(given) == 1 else each_once(name for one in given for name in _images_at(one))


def read_list(file: BinaryIO, name: str) -> Iterator[str]:
    """Names from a list, one a line, or each ended by a NUL byte as ``find -print0`` writes them.

    Args:
        file: Read as it comes; no more than a part of it is held.
        name: Of the list, for the error.

    Raises:
        DataError: It is no list of names.
    """
    rest, separator = b"", b""
    while chunk := file.read(_CHUNK):
        rest += chunk
        separator = separator or (b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b"")
        if separator:
            *names, rest = rest.split(separator)
            yield from _decoded(names, name)
        _refuse_long(rest, name)
    yield from _decoded([rest], name)


def is_web_address(text: str) -> bool:
    """True for what a browser or a cloud's tools would fetch."""
    return text.lower().startswith(_ADDRESSES)


def each_once(names: Iterable[str]) -> Iterator[str]:
    """Names without those that came before."""
    seen = NameSet()
    return (name for name in names if seen.add(name))


def _images_at(given: str, is_sorted: bool = True) -> Iterator[str]:
    """Images that one argument names, at least one of them."""
    if is_web_address(given):
        raise DataError(f"{shown(given)} is a web address, and tintype fetches nothing. Download it first.")
    path = Path(given).expanduser()
    found = False
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on names too long
        for name in iter_images(path):
            found = True
            yield (path / name).as_posix()
        if not found:
            raise DataError(f"{shown(given)} holds no images.")
    elif os.path.lexists(path):
        yield path.as_posix()
    else:
        for name in _matches(str(path), is_sorted) if glob.has_magic(given) else ():
            found = True
            yield name
        if not found:
            fact = f"{shown(given)} matches no images" if glob.has_magic(given) else f"there is no {shown(given)}"
            raise DataError(f"{fact}. Give image files, folders or patterns such as 'photos/*.jpg'.")


def _matches(pattern: str, is_sorted: bool) -> Iterator[str]:
    """Images that match a pattern, and those below folders that do."""
    matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
    for match in in_order(matches, natural_key) if is_sorted else matches:
        path = Path(match)
        if path.is_dir():
            yield from ((path / name).as_posix() for name in iter_images(path))
        elif extension(match) in IMAGE_EXTENSIONS or (not extension(match) and begins_as_image(match)):
            yield path.as_posix()


def _decoded(names: list[bytes], list_name: str) -> Iterator[str]:
    for name in names:
        _refuse_long(name, list_name)
        text = os.fsdecode(name.removesuffix(b"\r"))  # Windows ends lines so
        if text:
            yield text


def _refuse_long(name: bytes, list_name: str) -> None:
    if len(name) > _LONGEST:
        raise DataError(
            f"{shown(list_name)} is no list of paths: it has one of more than {_LONGEST:,} bytes. Give a text with a "
            "path on each line, or the output of find -print0."
        )
