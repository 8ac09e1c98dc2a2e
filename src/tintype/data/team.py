"""Folders that appear whole on every machine of a run: which ranks write them, and what happens when one fails.

Ranks that share a cache folder have one among them that writes, the keeper; a separate disk has one of its own. Whether
a folder is shared is tried, not guessed from names. What fails on one rank is raised on all, so none waits for another.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tintype.data.index import shown
from tintype.data.shelf import LOCK_SECONDS, appearing, plain_errors, try_lock
from tintype.errors import DataError, RankError, TintypeError
from tintype.records import OnProgress

if TYPE_CHECKING:
    from tintype.ranks.world import World  # imports torch, and a single process that decodes needs none

APPEARS_SECONDS = 90.0
"""How long a folder that another rank has renamed may stay unseen: NFS remembers for up to 60 s what was not there."""

_LOOK_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The ranks of a run while they fill one cache folder, or their copies of it.

    Attributes:
        world: The ranks.
        keepers: For each rank the one that writes its folder, which may be itself.
        holders: Keepers that have the content already; the others get it from them.
        folder: Where this rank's copy goes, for messages.
        what: What is written, for messages: ``decoded images``.
    """

    world: World
    keepers: tuple[int, ...]
    holders: tuple[int, ...]
    folder: Path
    what: str

    @property
    def writers(self) -> tuple[int, ...]:
        """Ranks that have to write, ascending."""
        return tuple(sorted(set(self.keepers) - set(self.holders)))

    @property
    def is_writer(self) -> bool:
        """True where this rank has to write."""
        return self.world.rank in self.writers

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; collective.

        Raises:
            DataError: The first one of any rank, with the same line on all; a file that cannot be written is one.
            RankError: Another rank failed in another way; there its own error is raised.
        """
        problem: BaseException | None = None
        try:
            with plain_errors(self.folder, self.what):
                result = work()
        except BaseException as error:
            problem = error
        # A mistake of the user's is said everywhere; of an error of the program's only the rank has the traceback.
        kind = None if problem is None else "data" if isinstance(problem, DataError) else type(problem).__name__
        told = self.world.exchange([kind, str(problem)])
        if problem is not None and not isinstance(problem, TintypeError):
            raise problem
        for rank, (kind, text) in enumerate(told):
            if kind is not None:
                self._raise(rank, kind, text)
        return result

    def _raise(self, rank: int, kind: str, text: str) -> None:
        who = self.world.describe(rank)
        if kind == "data":
            raise DataError(f"{who}: {text}") from None
        if kind == "KeyboardInterrupt":
            raise RankError(f"{who} was interrupted.") from None
        raise RankError(f"{who} failed while it dealt with {self.what}: {kind} {text}".rstrip()) from None


def open_or_build_together(
    final: Path,
    n: int,
    try_open: Callable[[bool], T | None],
    build: Callable[[Path | None, Team, T | None], None],
    what: str,
    waiting: str,
    on_progress: OnProgress,
    world: World,
) -> tuple[T, bool]:
    """What :func:`tintype.data.shelf.open_or_build` is for a single process; collective.

    Args:
        final: This rank's folder; names may differ between ranks.
        n: How many things it holds, for ``on_progress``.
        try_open: Opens ``final``; None where it is missing or damaged. It is told whether to look for damage.
        build: Called on all ranks where any has to write, with the empty folder to be filled (None where this rank is
            not to write) and the content (where this rank is a holder). It raises on all ranks or on none.
        what: What is written, for messages.
        waiting: What is told while another process builds the same.
        on_progress: Told of waiting.
        world: Two ranks or more.

    Returns:
        What ``try_open`` gave, and whether some rank had to write it.

    Raises:
        DataError: A disk is full, or a folder cannot be written; with the same line on all ranks.
    """
    team = Team(world, tuple(range(world.size)), (), final.parent, what)
    content = team.together(lambda: try_open(True))
    if not world.any(content is None)[0]:
        assert content is not None
        return content, False
    keepers = find_keepers(final, world)
    wants = content is None and keepers[world.rank] == world.rank
    with ExitStack() as locks, ExitStack() as unfinished:
        _lock_all(final, team, wants, locks, lambda: on_progress(waiting, 0, n))
        if wants:  # it may have been built while the lock was waited for
            content = try_open(True)
        held = world.exchange(content is not None)
        holders = tuple(keeper for keeper in sorted(set(keepers)) if held[keeper])
        team = Team(world, keepers, holders, final.parent, what)
        if team.writers:
            folder = team.together(lambda: unfinished.enter_context(appearing(final)) if team.is_writer else None)
            build(folder, team, content if world.rank in holders else None)
            team.together(unfinished.close)
        # Still locked, so that nobody removes what some have not opened yet.
        opened = team.together(lambda: _open_soon(final, try_open) if content is None else content)
    return opened, bool(team.writers)


def find_keepers(final: Path, world: World) -> tuple[int, ...]:
    """For each rank the first one that sees the same folder under the same name; collective.

    Every rank leaves a file beside the folder and looks for those of the others. Machines with one name, or one folder
    under two paths, deceive neither.

    Args:
        final: This rank's folder, which need not exist.
        world: The ranks.
    """
    token, names = world.agree(secrets.token_hex(8)), world.exchange(final.name)
    marks = [final.parent / f".{token}-{rank}" for rank in range(world.size)]
    with suppress(OSError):  # a folder that cannot be written is complained of when it has to be
        final.parent.mkdir(parents=True, exist_ok=True)
        marks[world.rank].touch()
    world.wait()
    # By name, not by listing: NFS lists what it has read before, but asks for a name that it has never looked for.
    seen = [rank for rank, mark in enumerate(marks) if names[rank] == final.name and os.access(mark, os.F_OK)]
    world.wait()
    with suppress(OSError):
        marks[world.rank].unlink()
    return tuple(world.exchange(min([*seen, world.rank])))


def _lock_all(final: Path, team: Team, wants: bool, locks: ExitStack, tell: Callable[[], None]) -> None:
    """Lock the folders of all ranks that want it, or none: two runs that hold one each would wait for ever."""
    while True:
        lock = team.together(lambda: try_lock(final, LOCK_SECONDS) if wants else None)
        if lock is not None:
            locks.callback(lock.release)
        if not team.world.any(wants and lock is None)[0]:
            return
        locks.close()
        tell()
        time.sleep(random.uniform(0, LOCK_SECONDS))  # two runs that want the same folders must not keep step


def _open_soon(final: Path, try_open: Callable[[bool], T | None]) -> T:
    """Open what another rank has just put there, once this machine sees it."""
    deadline = time.monotonic() + APPEARS_SECONDS
    while (content := try_open(False)) is None:
        if time.monotonic() > deadline:
            raise DataError(f"the cache {shown(final)} vanished while it was built. Run it again.")
        time.sleep(_LOOK_SECONDS)
        os.listdir(final.parent)  # noqa: PTH208 - opening a folder is what makes NFS look again
    return content
