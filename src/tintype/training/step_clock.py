"""Where the time of training steps goes, on one rank: the phases of each step, and the way of each bucket of gradients.

The loop says when a phase has ended; DistributedDataParallel's hook says when a bucket's gradients were ready, and its
future when those of all ranks had been summed. All times are this process's own clock.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # not in its __all__
from torch.futures import Future

from tintype.evaluation.step_times import Bucket, Phase, StepTimes

Hook = Callable[[Any, GradBucket], Future[Tensor]]
"""A communication hook of DistributedDataParallel: its state and a bucket to the future of the bucket's sum."""


def _nothing() -> None:
    """What a clock that nobody reads does."""


class Clock:
    """The clock of a loop that nobody measures: it does nothing."""

    def start(self) -> None:
        """The first step of several begins."""

    def mark(self, phase: Phase) -> None:
        """What was done since the mark before was of this phase."""

    def timed(self, hook: Hook) -> Hook:
        """The hook as it is."""
        return hook

    def sends(self, size: int) -> Callable[[], None]:  # noqa: ARG002
        """So many bytes of factors go on their way now; call what is returned when they have arrived."""
        return _nothing

    def multiplies(self) -> Callable[[], None]:
        """Factors are multiplied out from now on; call what is returned when that is done."""
        return _nothing


class StepClock(Clock):
    """A clock that keeps every mark until it is asked for the steps."""

    def __init__(self) -> None:
        self._marks: list[tuple[Phase | None, float]] = []
        self._buckets: list[tuple[float, list[float], int, bool]] = []
        self._products: list[tuple[float, float]] = []

    def start(self) -> None:
        """The first step of several begins."""
        self._marks.append((None, time.perf_counter()))

    def mark(self, phase: Phase) -> None:
        """What was done since the mark before was of this phase."""
        self._marks.append((phase, time.perf_counter()))

    def timed(self, hook: Hook) -> Hook:
        """The same hook, with the times at which each bucket was ready and summed kept here."""

        @wraps(hook)  # DistributedDataParallel looks at a hook's annotations
        def watched(state: Any, bucket: GradBucket) -> Future[Tensor]:
            summed: list[float] = []  # filled by another thread, before the backward pass ends
            self._buckets.append((time.perf_counter(), summed, bucket.buffer().nbytes, False))

            def note(future: Future[Tensor]) -> Tensor:
                summed.append(time.perf_counter())
                return future.value()

            return hook(state, bucket).then(note)

        return watched

    def sends(self, size: int) -> Callable[[], None]:
        """The same, with both times kept as those of a bucket."""
        arrived: list[float] = []
        self._buckets.append((time.perf_counter(), arrived, size, True))
        return lambda: arrived.append(time.perf_counter())

    def multiplies(self) -> Callable[[], None]:
        """The same, with the time that it took."""
        begun = time.perf_counter()

        def done() -> None:
            ended = time.perf_counter()
            self._products.append((ended, ended - begun))

        return done

    def take(self) -> list[StepTimes]:
        """The steps since the last call, which are forgotten here."""
        marks, buckets, products = self._marks, deque(self._buckets), deque(self._products)
        self._marks, self._buckets, self._products = [], [], []
        steps: list[StepTimes] = []
        forward_end = 0.0
        for (_, begun), (phase, ended) in itertools.pairwise(marks):
            if phase is None:
                continue
            if phase == "input" or not steps:
                steps.append(StepTimes({}))
            step = steps[-1]
            seconds = {**step.seconds, phase: step.seconds.get(phase, 0.0) + ended - begun}
            if phase == "forward":
                forward_end = ended
            found: list[Bucket] = []
            while phase == "backward" and buckets and buckets[0][0] <= ended:
                ready, summed, size, is_factors = buckets.popleft()
                times = (ready - forward_end, summed[0] - forward_end, ended - forward_end)
                found.append(Bucket(size, *times, is_factors))
            product = 0.0
            while phase == "backward" and products and products[0][0] <= ended:
                product += products.popleft()[1]
            steps[-1] = StepTimes(
                seconds, (*step.buckets, *found), step.messages + (phase == "agreement"), step.product + product
            )
        return steps


NO_CLOCK = Clock()
"""What a loop has where nobody measures."""
