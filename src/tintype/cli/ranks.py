"""Starting a command as several processes, and what one of them keeps for those that come after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tintype.ranks.torchrun import is_first, rank_of_process

if TYPE_CHECKING:
    from tintype.watch import Watch

INTERRUPTED = 130
"""Exit code of a command that somebody has stopped."""


def start_workers(workers: int | None) -> None:
    """Where several processes are wanted and this is not one of them, start this very command in them, and end.

    The exit code is theirs.
    """
    if workers is None or workers == 1 or rank_of_process() is not None:
        return
    from tintype.ranks.launch import launch_workers

    sys.exit(launch_workers(without_workers(sys.argv[1:]), workers))


def without_workers(arguments: list[str]) -> list[str]:
    """A command line without ``--workers N``."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--workers":
            next(rest, None)
        elif not argument.startswith("--workers="):
            kept.append(argument)
    return kept


@contextmanager
def watching(as_json: bool) -> Iterator[Watch]:
    """Show what a command does, if this process is the one that talks; Ctrl-C stops it so that it can be gone on with.

    What somebody has stopped torchrun shall not start anew; its own SIGTERM comes before it does so.
    """
    from tintype.console import Display
    from tintype.errors import RunInterrupted

    display = Display(quiet=as_json or not is_first())
    try:
        with display.stoppable(), display.watching() as watch:
            yield watch
    except (KeyboardInterrupt, RunInterrupted) as stopped:
        if rank_of_process() is not None and display.interrupted:
            from tintype.ranks.outcome import note_end

            note_end(INTERRUPTED)
        if isinstance(stopped, KeyboardInterrupt):  # at which Typer would end without a word
            raise RunInterrupted("tintype: stopped.") from None
        raise
