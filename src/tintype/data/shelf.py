"""Folders that appear whole: built beside their place under a lock, and renamed when nothing is missing.

A killed builder leaves nothing half-read, and of two builders the second waits for the first and opens what it made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import filelock

from tintype.data.index import shown
from tintype.errors import DataError
from tintype.records import OnProgress

META = "meta.json"
"""The file of a folder that is written last; without it a folder is not taken for whole."""

LOCK_SECONDS = 0.2
"""How long a lock is waited for before that is told."""

_BUILDING = ".building"
_USED = "used"

T = TypeVar("T")


def open_or_build(
    final: Path,
    n: int,
    try_open: Callable[[bool], T | None],
    build: Callable[[Path], None],
    what: str,
    waiting: str,
    on_progress: OnProgress,
) -> tuple[T, bool]:
    """Open a folder, or build it where there is none or a damaged one.

    Args:
        final: The folder. What abandoned builders have left beside it is removed before it is built.
        n: How many things it holds, for ``on_progress``.
        try_open: Opens ``final``; None where it is missing or damaged. It is told whether to look for damage.
        build: Fills the empty folder that it is given, ``meta.json`` last.
        what: What is written, for messages: ``decoded images``.
        waiting: What is told while another process builds the same.
        on_progress: Told of waiting.

    Returns:
        What ``try_open`` gave, and whether it had to be built.

    Raises:
        DataError: The disk is full, or the folder cannot be written. Whatever ``build`` raises leaves nothing behind.
    """
    content = try_open(True)  # without the lock: a whole folder appears at once
    if content is not None:
        return content, False
    with plain_errors(final.parent, what), _locked(final, n, waiting, on_progress):
        content = try_open(True)
        if content is not None:
            return content, False
        with appearing(final) as folder:
            build(folder)
        content = try_open(False)  # while the lock keeps it from being removed
    if content is None:
        raise DataError(f"the cache {shown(final)} vanished while it was built. Run it again.")
    return content, True


def mark_used(folder: Path) -> None:
    """Note that a folder was opened just now; :func:`shrink` removes those that were not opened for the longest."""
    with suppress(OSError):  # it may be someone else's
        (folder / _USED).touch()


def shrink(parent: Path, most_bytes: int, keep: Collection[Path]) -> int:
    """Remove the folders that were not used for the longest until all together take at most ``most_bytes``.

    Whoever has a removed folder's files mapped keeps what they see. Folders that are being built, those in ``keep``
    and those that cannot be removed stay, and abandoned ones go.

    Returns:
        The bytes of the folders that were removed.
    """
    _remove_abandoned(parent)
    sizes: dict[Path, int] = {}
    last_used: dict[Path, int] = {}
    for meta in parent.glob(f"*/{META}"):
        if meta.parent.suffix != _BUILDING:
            with suppress(FileNotFoundError):  # another process removes it
                sizes[meta.parent] = sum(file.stat().st_size for file in meta.parent.iterdir())
                marker = meta.with_name(_USED)
                last_used[meta.parent] = (marker if marker.exists() else meta).stat().st_mtime_ns
    excess, freed = sum(sizes.values()) - most_bytes, 0
    for folder in sorted(last_used, key=last_used.__getitem__):
        if freed >= excess:
            break
        if folder not in keep and _remove(folder):
            freed += sizes[folder]
    return freed


@contextmanager
def appearing(final: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``final`` on leaving, and is removed on an error; who calls it holds the lock.

    What abandoned builders have left beside it is removed first.

    Raises:
        OSError: It cannot be made or renamed.
    """
    _remove_abandoned(final.parent)
    building = _building(final)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        yield building
        if final.exists():  # damaged, or it would have been opened; whoever has it mapped keeps what they see
            shutil.rmtree(final)
        building.rename(final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def try_lock(final: Path, seconds: float) -> filelock.BaseFileLock | None:
    """The lock of one folder, or None where another process holds it for so long; when its holder dies it is released.

    Raises:
        OSError: The lock's file cannot be written.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(_lock_file(final))
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        return None
    return lock


@contextmanager
def _locked(final: Path, n: int, waiting: str, on_progress: OnProgress) -> Iterator[None]:
    """Hold the lock of one folder."""
    while (lock := try_lock(final, LOCK_SECONDS)) is None:
        on_progress(waiting, 0, n)
    try:
        yield
    finally:
        lock.release()


def _remove(folder: Path) -> bool:
    """Remove a whole folder unless it is being built or may not be removed."""
    try:
        with filelock.FileLock(_lock_file(folder)).acquire(timeout=0):
            # Away from its name first: a removal that is killed leaves what looks like a build that was.
            building = _building(folder)
            shutil.rmtree(building, ignore_errors=True)
            folder.rename(building)
            shutil.rmtree(building, ignore_errors=True)
    except OSError:  # filelock.Timeout is one
        return False
    return True


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed builders of any folder have left; a living builder holds its folder's lock."""
    for building in parent.glob(f"*{_BUILDING}"):
        lock = filelock.FileLock(_lock_file(building.with_name(building.name.removesuffix(_BUILDING))))
        with suppress(OSError), lock.acquire(timeout=0):  # filelock.Timeout is one
            shutil.rmtree(building, ignore_errors=True)


def _building(final: Path) -> Path:
    return final.with_name(final.name + _BUILDING)


def _lock_file(final: Path) -> Path:
    return final.with_name(f"{final.name}.lock")


@contextmanager
def plain_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn what keeps files from being written into the user's line, a :class:`tintype.errors.DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {what} to {shown(folder)}: {error.strerror or error}. Set TINTYPE_CACHE to a folder "
            "that can be written."
        ) from None
