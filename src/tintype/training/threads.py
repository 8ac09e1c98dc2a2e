"""How many threads compute: all of them, or fewer where another program takes a core.

Threads that share the work of an operation meet at its end. Where another program has taken the core of one of them,
the others spin meanwhile, in every operation. On two Intel cores, a training step of a small network (2026-11-21) took
26 ms alone, 120 ms beside one busy process and 811 ms beside two; with a single thread 42 ms beside one. One of
ResNet-18 at 64 px (2026-11-22) took 146 ms alone and 1,058 ms beside one; with a single thread 261 ms.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from tintype.config import RunConfig
from tintype.ranks.torchrun import usable_cores
from tintype.runtime import Runtime, choose_precision, step_seconds

CROWDED = 0.9
"""Share of the cores' time below which another program must have had the rest: threads that wait spin."""

CLEARLY_FASTER = 0.9
"""Fewer threads are taken where they need less than this share of the time of all: more may be chance."""

MUCH_FASTER = 0.67
"""The same for a run, which another number of threads changes in its last digits: chance must not do that. With nothing
else running, five small networks kept two threads in 75 of 75 trials (2026-11-22)."""

LATE = 2.5
"""Steps that take so many times as long as measured are slowed down by others."""

LATE_STEPS = 5
"""So many of them in a row are no accident."""

FIRST_STEPS = 20
"""Steps by whose median a run knows how long one takes."""

LATE_SECONDS = 2.0
"""A run steps aside after late steps of so long: whoever opens a window does not change its last digits."""

AWAY_SECONDS = 60.0
"""So long it computes with fewer threads, at the least, before it tries all again."""

LOST_SHARE = 0.05
"""Share of the time that trying may take."""


class LateSteps:
    """Counts the steps in a row that take far longer than they should.

    Attributes:
        expected: Seconds of a step; while it is 0 none is late.
        count: How many.
        since: When the last one ended that was in time.
    """

    def __init__(self, expected: float = 0.0) -> None:
        self.expected = expected
        self._last = time.perf_counter()
        self.begin_anew()

    def begin_anew(self) -> None:
        """The last step was in time."""
        self.count, self.since = 0, self._last

    def step(self) -> float:
        """Notice that a step has ended; gives its seconds."""
        now = time.perf_counter()
        took, self._last = now - self._last, now
        if self.expected and took > LATE * self.expected:
            self.count += 1
        else:
            self.begin_anew()
        return took


class Threads:
    """The number of threads, which changes with what the machine does besides.

    Args:
        most: All that the run may use.

    Attributes:
        tried: The numbers of threads that were timed last, and their seconds.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: dict[int, float] = {}
        self._started = time.perf_counter(), time.process_time()
        self._late = LateSteps()

    def use(self, count: int) -> None:
        """Compute with so many from now on."""
        torch.set_num_threads(count)
        self.look_anew()

    def look_anew(self) -> None:
        """What was before says nothing of who has the cores now."""
        self._started = time.perf_counter(), time.process_time()

    @property
    def is_crowded(self) -> bool:
        """Whether others had a part of the cores since :meth:`use` or :meth:`look_anew`."""
        return torch.get_num_threads() > 1 and self._cores_had() < CROWDED * torch.get_num_threads()

    @property
    def fewer(self) -> int:
        """As many threads as there seem to be cores that no other program wants, at least half of those in use.

        A core that two programs want gives each of them half of its time.
        """
        count = torch.get_num_threads()
        wanted = round(2 * (count - self._cores_had()))
        return max(1, count // 2, count - max(1, wanted))

    def _cores_had(self) -> float:
        wall, used = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return used / wall if wall > 0 else float(self.most)

    def choose(self, timed: Callable[[], float], share: float = CLEARLY_FASTER) -> float:
        """Time something with all threads, and with fewer where others have a part of the cores; what is faster stays.

        Args:
            timed: Does it, and returns the seconds.
            share: Of the seconds of all threads, below which fewer are taken.

        Returns:
            The seconds that it takes from now on.
        """
        self.use(self.most)
        seconds = timed()
        self.tried = {self.most: seconds}
        if self.is_crowded:
            fewer = self.fewer
            self.use(fewer)
            self.tried[fewer] = timed()
            if self.tried[fewer] < share * seconds:
                return self.tried[fewer]
            self.use(self.most)
        return seconds

    def expect(self, step_seconds: float) -> None:
        """Say how long a step takes; from then on :meth:`step` is called after each."""
        self._late = LateSteps(step_seconds)

    def step(self) -> None:
        """Notice that a step has ended; several slow ones leave fewer threads."""
        self._late.step()
        if self._late.count >= LATE_STEPS and torch.get_num_threads() > 1:
            self.use(self.fewer)


class SteppingAside:
    """A run that computes with fewer threads while another program wants the cores.

    Args:
        most: Threads that it has.
        on_message: Is told the first time.
    """

    def __init__(self, most: int, on_message: Callable[[str], None]) -> None:
        self._threads, self._on_message = Threads(most), on_message
        self._first: list[float] = []
        self._late, self._back_at = LateSteps(), 0.0

    def step(self) -> None:
        """Notice that a step has ended."""
        took, now = self._late.step(), time.perf_counter()
        if len(self._first) < FIRST_STEPS:
            self._first.append(took)
            self._threads.look_anew()
            if len(self._first) == FIRST_STEPS:
                self._late.expected = statistics.median(self._first)
        elif torch.get_num_threads() < self._threads.most:
            if now >= self._back_at:
                self._threads.use(self._threads.most)
                self._late.begin_anew()
        elif not self._late.count:
            self._threads.look_anew()
        elif self._late.count >= LATE_STEPS and now - self._late.since >= LATE_SECONDS and self._threads.is_crowded:
            self._step_aside(now)

    def _step_aside(self, now: float) -> None:
        lost, count = now - self._late.since, self._threads.fewer
        if not self._back_at:
            slower = lost / self._late.count / self._late.expected
            self._on_message(
                f"steps take {slower:.1f} times as long as at first, and a part of the cores' time goes elsewhere: "
                f"{count} of {self._threads.most} threads until that is over"
            )
        self._threads.use(count)
        self._back_at = now + max(AWAY_SECONDS, lost / LOST_SHARE)


def choose_computing(
    runtime: Runtime, network: nn.Module, inputs: torch.Tensor, config: RunConfig
) -> tuple[Runtime, str | None]:
    """Choose the threads, where another program wants the cores, and then the precision, each by measuring.

    Another number of threads adds up in another order. So where the precision was set, or several ranks compute,
    threads are left as they are.

    Args:
        runtime: What is chosen so far.
        network: Takes the inputs and gives logits.
        inputs: A batch like those it will be trained on.
        config: ``precision`` and ``threads`` count.

    Returns:
        Where and how it is computed, and why with so many threads; None where nothing is to be said of them.
    """
    is_run = runtime.world.is_alone and runtime.world.gradients is None  # and no rank that is measured by itself
    said = None
    if is_run and config.threads is None and runtime.threads < usable_cores():
        said = f"OMP_NUM_THREADS says so; there are {usable_cores()} cores"
    is_open = is_run and config.threads is None and config.precision == "auto"
    if is_open and runtime.threads > 1 and runtime.device.type == "cpu":
        threads = Threads(runtime.threads)
        threads.choose(lambda: step_seconds(runtime, network, inputs, threads.look_anew), MUCH_FASTER)
        count = torch.get_num_threads()
        if count < runtime.threads:
            rates = ", ".join(f"{number}: {len(inputs) / seconds:,.0f}" for number, seconds in threads.tried.items())
            said = f"fewer are faster beside what else runs here; images per second by number of threads: {rates}"
        runtime = replace(runtime, threads=count, steps_aside=count > 1)
    return choose_precision(runtime, network, inputs, config.precision), said
