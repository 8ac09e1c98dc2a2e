"""Who is still there: a sign of life a second from every rank, watched by all others.

Collectives wait for a rank that is slow as for one that is gone. The signs tell the two apart: they come from a thread
of their own, over a connection of its own, whatever the rank is doing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from datetime import timedelta
from typing import NoReturn

from tintype.ranks.meeting import Meeting
from tintype.ranks.outcome import claim, say

PEER_LOST = 75
"""Exit code of a rank that ends because another is gone; ``EX_TEMPFAIL`` of BSD's ``sysexits.h``: try again."""

PATIENCE_SECONDS = 30.0
"""How long a rank may be silent. A process that holds Python's lock, or a machine that swaps, is silent for seconds."""

_BEAT_SECONDS = 1.0
_BEATS_A_PATIENCE = 5
_GOODBYE_SECONDS = 2.0
_STORE_TIMEOUT = timedelta(days=1)
"""Whether the store answers, the watching thread judges; torch's own limit would warn with a stack trace."""


class Heartbeat:
    """The signs of life of one rank, and the watch over those of the others.

    Where a rank has been silent for too long, or the store or the launcher is gone, the process ends at once with exit
    code :data:`PEER_LOST`: its main thread may wait in a collective that nothing else ends. torchrun then starts all
    ranks anew.

    Args:
        meeting: The ranks of this attempt.
        patience_seconds: How long a rank, or the store, may be silent.

    Raises:
        ConnectionError: The store does not answer.
    """

    def __init__(self, meeting: Meeting, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._meeting = meeting
        self._patience = patience_seconds
        self._interval = min(_BEAT_SECONDS, patience_seconds / _BEATS_A_PATIENCE)
        self._looks = patience_seconds / self._interval
        self._parent = os.getppid()
        self._others = [rank for rank in range(meeting.size) if rank != meeting.rank]
        self._store = meeting.store(_STORE_TIMEOUT)
        self._beats = [f"beat/{rank}" for rank in range(meeting.size)]
        self._goodbyes = [f"goodbye/{rank}" for rank in range(meeting.size)]
        for key in (*self._beats, *self._goodbyes):
            self._store.add(key, 0)  # there from now on, so that reading never waits
        self._seen = [0] * (2 * meeting.size)
        self._rounds = 0
        self._is_store_lost = False
        self._stopping = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="heartbeat-watch", daemon=True)

    def start(self) -> None:
        """Give signs of life, and watch those of the others, until :meth:`stop`."""
        self._beating.start()
        self._watching.start()

    def stop(self) -> None:
        """Say goodbye: this rank needs the others no more, and they shall not miss it. May be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for thread in (self._watching, self._beating):
            if thread.is_alive():
                thread.join(_GOODBYE_SECONDS)
        if not self._beating.is_alive() and not self._is_store_lost:
            try:
                self._store.add(self._goodbyes[self._meeting.rank], 1)
            except RuntimeError:
                self._is_store_lost = True  # whoever kept it has ended before us; there is nobody to take leave of

    def _beat(self) -> None:
        keys = [*self._beats, *self._goodbyes]
        try:
            while True:
                self._store.add(self._beats[self._meeting.rank], 1)
                self._seen = [int(count) for count in self._store.multi_get(keys)]
                self._rounds += 1
                if self._stopping.wait(self._interval):
                    return
        except RuntimeError:
            self._is_store_lost = True

    def _watch(self) -> None:
        """Judge what the other thread has read, which itself may wait for a machine that is cut off."""
        silences = {rank: _Silence() for rank in self._others}
        store_silence = _Silence()
        while not self._stopping.wait(self._interval):
            if os.getppid() != self._parent:
                self._end_without_launcher()
            seen = self._seen
            there = [rank for rank in self._others if not seen[self._meeting.size + rank]]
            if not there:
                continue
            store_looks = store_silence.after(self._rounds)
            if self._is_store_lost or store_looks > self._looks:
                self._end_without_store()
            if store_looks == 0:  # what was read is news
                silent = [rank for rank in there if silences[rank].after(seen[rank]) > self._looks]
                if silent:
                    self._end_without(silent)

    def _end_without(self, silent: Iterable[int]) -> NoReturn:
        who = ", ".join(f"rank {rank} on {self._meeting.hosts[rank]}" for rank in silent)
        if claim(f"silent/{self._meeting.name}"):
            say(
                f"tintype: {who} has not been heard of for {self._patience:.0f} s (stopped, hung or cut off); "
                "ending so that torchrun can start it anew."
            )
        os._exit(PEER_LOST)

    def _end_without_store(self) -> NoReturn:
        """The launcher that keeps the store has ended, which may be ours, or its machine is down or cut off."""
        if os.getppid() != self._parent:
            self._end_without_launcher()
        if os.environ.get("LOCAL_RANK") == "0":
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            how = "has ended" if self._is_store_lost else f"has not answered for {self._patience:.0f} s"
            say(f"tintype: the torchrun at {where} {how}; the ranks on this machine end.")
        os._exit(PEER_LOST)

    def _end_without_launcher(self) -> NoReturn:
        if os.environ.get("LOCAL_RANK") == "0":
            say("tintype: the process that launched the ranks is gone; they end. `tintype train --resume RUN` goes on.")
        os._exit(PEER_LOST)


class _Silence:
    """How often somebody has looked at a count that did not change.

    Looks, not seconds: time in which the process that looks was itself stopped says nothing about the others.
    """

    def __init__(self) -> None:
        self._count = -1
        self._looks = 0

    def after(self, count: int) -> int:
        """The looks since the last change, after one more."""
        self._looks = self._looks + 1 if count == self._count else 0
        self._count = count
        return self._looks
