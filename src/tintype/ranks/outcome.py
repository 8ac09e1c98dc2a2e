"""What the ranks of a run tell the user, and those who come after them: how it ended, and where the run is.

Kept in the launcher's store, which outlives the workers. Where there is none (:mod:`tintype.ranks.meeting` lists the
modes of torchrun) or it does not answer, nothing is kept: every rank then tells its errors itself, and a mistake is
made as often as torchrun starts the workers anew.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from hashlib import sha256

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # not in its __all__

from tintype.ranks.meeting import connect, keeps_store

RUN = "run"
"""Key of the run directory's path."""
END = "end"
"""Key of the exit code that starting anew would only repeat."""

_PREFIX = "tintype/run"
_FIRST_SECONDS = 2.0
"""How long other ranks leave rank 0 the telling of what it may have found as well."""
_LOOK_SECONDS = 0.05


def tell_once(line: str, start: str = "tintype: ") -> bool:
    """Print a line on stderr, unless another rank of this attempt has printed the same.

    What rank 0 has to tell as well, it tells. What it has not told within two seconds is told by the rank that found
    it, with its number and machine: ``tintype: rank 1 on node-b: ...``.

    Args:
        line: What to tell, without its end of line.
        start: Put before it.

    Returns:
        True if this process printed it.
    """
    rank = int(os.environ.get("RANK", "0"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"{attempt}/{sha256(line.encode()).hexdigest()[:16]}"
    if not claim(name, 0.0 if rank == 0 else _FIRST_SECONDS):
        return False
    where = "" if rank == 0 else f"rank {rank} on {socket.gethostname()}: "
    say(f"{start}{where}{line}")
    return True


def say(line: str) -> None:
    """Write a line on stderr past Python's buffer, whose lock a thread that is cut short may hold."""
    os.write(2, f"{line}\n".encode())


def claim(name: str, patience_seconds: float = 0.0) -> bool:
    """Take what only one rank shall do.

    Args:
        name: Of the deed.
        patience_seconds: How long it is left to others first.

    Returns:
        True for the first rank that asks, and for every rank where no store answers.
    """
    store = _store()
    if store is None:
        return True
    deadline = time.monotonic() + patience_seconds
    try:
        while time.monotonic() < deadline and not store.check([f"claim/{name}"]):
            time.sleep(_LOOK_SECONDS)
        return store.add(f"claim/{name}", 1) == 1
    except RuntimeError:
        return True


def note_end(code: int) -> None:
    """Leave the exit code of an end that starting anew would only repeat; the first that is noted stays.

    For a user's mistake (2) and a stop that was asked for (130). A SIGTERM alone is no such stop: torchrun sends it to
    the workers that it starts anew.
    """
    remember(END, str(code))


def ended_before() -> int | None:
    """The exit code that a rank has noted, in this attempt or an earlier one; None where none has."""
    code = recall(END)
    return None if code is None else int(code)


def remember(key: str, value: str) -> None:
    """Keep a text for the attempts to come; the first that is kept under a key stays."""
    store = _store()
    if store is not None:
        with suppress(RuntimeError):
            store.compare_set(key, "", value)


def recall(key: str) -> str | None:
    """What was remembered, by any rank in any attempt; None if nothing was."""
    store = _store()
    try:
        return None if store is None else _read(store, key)
    except RuntimeError:
        return None


def recall_from(store: Store, key: str) -> str | None:
    """What was remembered, for the launcher, which has the store itself."""
    return _read(PrefixStore(_PREFIX, store), key)


def _read(store: Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None


def _store() -> Store | None:
    """A connection for a moment; None where the launcher keeps no store or it does not answer."""
    if not keeps_store():
        return None
    try:
        return PrefixStore(_PREFIX, connect())
    except ConnectionError:
        return None
