"""Starting a command as several processes, and what one of them keeps for those that come after it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tintype.ranks.torchrun import rank_of_process

if TYPE_CHECKING:
    from tintype.console import Display

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


def note_stop(display: Display) -> None:
    """Keep torchrun from starting anew what somebody has stopped; its own SIGTERM comes before it does so."""
    if rank_of_process() is not None and display.interrupted:
        from tintype.ranks.outcome import note_end

        note_end(INTERRUPTED)
