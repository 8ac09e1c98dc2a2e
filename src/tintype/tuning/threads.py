"""How many threads compute: all of them, or one where another program takes a core.

Threads that share the work of an operation meet at its end. Where another program has taken the core of one of them,
the others spin meanwhile, in every operation: on two Intel cores (2026-11-21) a training step of a small network took
26 ms alone, 120 ms beside one busy process and 811 ms beside two; with a single thread 42 ms beside one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

CROWDED = 0.8
"""Share of the cores' time below which another program must have had the rest: threads that wait spin."""

CLEARLY_FASTER = 0.9
"""One thread is taken where it needs less than this share of the time of all: less may be chance."""

LATE = 2.5
"""Steps that take so many times as long as measured are slowed down by others."""

LATE_STEPS = 5
"""So many of them in a row are no accident."""


class Threads:
    """The number of threads, which changes with what the machine does besides.

    Args:
        most: All that the run may use.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._started = time.perf_counter(), time.process_time()
        self._expected, self._last, self._late = 0.0, 0.0, 0

    def use(self, count: int) -> None:
        """Compute with so many from now on."""
        torch.set_num_threads(count)
        self._started = time.perf_counter(), time.process_time()

    @property
    def is_crowded(self) -> bool:
        """Whether others had a part of the cores since :meth:`use`."""
        wall, used = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return torch.get_num_threads() > 1 and used < CROWDED * torch.get_num_threads() * wall

    def choose(self, timed: Callable[[], float]) -> float:
        """Time something with all threads, and with one where others have a part of the cores; what is faster stays.

        Args:
            timed: Does it, and returns the seconds.

        Returns:
            The seconds that it takes from now on.
        """
        self.use(self.most)
        seconds = timed()
        if self.is_crowded:
            self.use(1)
            alone = timed()
            if alone < CLEARLY_FASTER * seconds:
                return alone
            self.use(self.most)
        return seconds

    def expect(self, step_seconds: float) -> None:
        """Say how long a step takes; from then on :meth:`step` is called after each."""
        self._expected, self._last, self._late = step_seconds, time.perf_counter(), 0

    def step(self) -> None:
        """Notice that a step has ended; several slow ones leave one thread."""
        now = time.perf_counter()
        took, self._last = now - self._last, now
        if not self._expected or torch.get_num_threads() == 1:
            return
        self._late = self._late + 1 if took > LATE * self._expected else 0
        if self._late >= LATE_STEPS:
            self.use(1)
