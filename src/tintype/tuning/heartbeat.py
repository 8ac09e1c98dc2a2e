"""Signs of life for the trials that this process has in hand, so that others can tell a killed worker from a busy one.

Optuna sends heartbeats only inside ``Study.optimize``, for one trial at a time. Here a thread does so for a batch that
was asked at once. Times are the database's own, so the clocks of the machines need not agree.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError


@dataclass(frozen=True)
class Pulse:
    """How often a worker shows that it lives.

    Attributes:
        interval: Seconds between two heartbeats.
        grace: Seconds without one after which a trial is lost; some intervals, for a busy machine is late.
    """

    interval: int = 5
    grace: int = 20


class Heartbeats:
    """A thread that beats for the trials in hand."""

    def __init__(self, storage: optuna.storages.RDBStorage, pulse: Pulse) -> None:
        self._storage = storage
        self._pulse = pulse
        self._trials: frozenset[int] = frozenset()
        self._stop = threading.Event()
        self._last = time.time()  # wall clock: it goes on while a laptop sleeps, time.monotonic does not
        self._resumed = float("-inf")
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tintype-heartbeats", daemon=True)
        self._thread.start()

    def cover(self, trial: int) -> None:
        """Beat for this trial (Optuna's id, not its number), now and from now on."""
        self._trials |= {trial}
        self._storage.record_heartbeat(trial)

    def drop(self, trial: int) -> None:
        """The trial is out of hand."""
        self._trials -= {trial}

    def beat(self) -> None:
        """Beat once for all trials in hand; without any, ask whether the database is there.

        Raises:
            SQLAlchemyError, StorageInternalError: It is not.
        """
        for trial in sorted(self._trials):
            self._storage.record_heartbeat(trial)
        with self._storage.engine.connect():
            pass
        with self._guard:
            now = time.time()
            if now - self._last > self._pulse.grace / 2:
                self._resumed = now
            self._last = now

    @property
    def settling(self) -> bool:
        """Whether this process, its machine or the database has just paused.

        Then the others may have had no chance to beat either, and nobody's trials are lost before another grace.
        """
        return 0 <= time.time() - self._resumed < self._pulse.grace

    def close(self) -> None:
        """Beat no longer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pulse.interval):
            with suppress(SQLAlchemyError, StorageInternalError):  # the next beat may come through again
                self.beat()
