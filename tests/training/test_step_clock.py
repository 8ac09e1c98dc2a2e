"""The clock of training steps: phases and buckets come out as steps, whatever their order in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.futures import Future

from tintype.training import step_clock
from tintype.training.step_clock import StepClock


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock_and_time(monkeypatch: pytest.MonkeyPatch) -> tuple[StepClock, Time]:
    time = Time()
    monkeypatch.setattr(step_clock, "time", time)
    return StepClock(), time


def bucket(size: int) -> Any:
    return SimpleNamespace(buffer=lambda: torch.zeros(size))


def test_marks_become_the_phases_of_steps(clock_and_time: tuple[StepClock, Time]) -> None:
    clock, time = clock_and_time
    time.now = 5.0
    clock.start()
    for number in range(2):
        for phase, seconds in (
            ("input", 1.0),
            ("forward", 2.0),
            ("backward", 3.0),
            ("agreement", 0.5),
            ("optimiser", 1.0),
        ):
            time.now += seconds + number
            clock.mark(phase)  # type: ignore[arg-type]
        time.now += 0.25
        clock.mark("agreement")
    first, second = clock.take()
    assert first.seconds == {"input": 1.0, "forward": 2.0, "backward": 3.0, "agreement": 0.75, "optimiser": 1.0}
    assert second.seconds["input"] == 2.0
    assert first.messages == 2
    assert first.total + second.total == time.now - 5.0
    assert clock.take() == []


def test_time_between_two_blocks_belongs_to_no_step(clock_and_time: tuple[StepClock, Time]) -> None:
    clock, time = clock_and_time
    for _ in range(2):
        clock.start()
        time.now += 1.0
        clock.mark("input")
        time.now += 100.0
    assert [step.total for step in clock.take()] == [1.0, 1.0]


def test_a_bucket_is_timed_from_ready_to_summed(clock_and_time: tuple[StepClock, Time]) -> None:
    clock, time = clock_and_time
    futures: list[Future[torch.Tensor]] = []

    def hook(state: object, bucket: Any) -> Future[torch.Tensor]:
        futures.append(Future())
        return futures[-1]

    timed = clock.timed(hook)
    clock.start()
    for _ in range(2):
        clock.mark("input")
        time.now += 1.0
        clock.mark("forward")
        time.now += 0.25
        results = [timed(None, bucket(10))]
        time.now += 0.25
        results.append(timed(None, bucket(20)))
        futures[-2].set_result(torch.ones(1))
        time.now += 0.5
        futures[-1].set_result(torch.ones(1))
        assert all(result.done() and result.value().item() == 1 for result in results)
        clock.mark("backward")
    for step in clock.take():
        early, late = step.buckets
        assert (early.bytes, early.ready, early.summed) == (40, 0.25, 0.5)
        assert (late.bytes, late.ready, late.summed, late.ended) == (80, 0.5, 1.0, 1.0)
        assert step.wait == 0.5


def test_gradients_that_add_up_over_parts_travel_with_the_last(clock_and_time: tuple[StepClock, Time]) -> None:
    clock, time = clock_and_time

    def hook(state: object, bucket: Any) -> Future[torch.Tensor]:
        future: Future[torch.Tensor] = Future()
        future.set_result(torch.ones(1))
        return future

    clock.start()
    clock.mark("input")
    for number in range(2):
        time.now += 1.0
        clock.mark("forward")
        time.now += 2.0
        if number == 1:
            clock.timed(hook)(None, bucket(10))
        clock.mark("backward")
    (step,) = clock.take()
    assert step.seconds == {"input": 0.0, "forward": 2.0, "backward": 4.0}
    assert step.buckets[0].ready == 2.0


def test_what_is_no_bucket_has_its_times_among_them(clock_and_time: tuple[StepClock, Time]) -> None:
    clock, time = clock_and_time
    clock.start()
    time.now = 1.0
    clock.mark("forward")
    time.now = 1.5
    arrived = clock.sends(80)
    time.now = 1.8
    arrived()
    time.now = 2.0
    clock.mark("backward")
    (step,) = clock.take()
    (found,) = step.buckets
    assert (found.bytes, found.ready, found.is_factors) == (80, 0.5, True)
    assert found.summed == pytest.approx(0.8)


def test_products_belong_to_the_step_that_they_end(clock_and_time: tuple[StepClock, Time]) -> None:
    clock, time = clock_and_time
    clock.start()
    for seconds in (0.25, 0.5):
        clock.mark("input")
        clock.mark("forward")
        for _ in range(2):
            done = clock.multiplies()
            time.now += seconds
            done()
        time.now += 1.0
        clock.mark("backward")
        clock.mark("optimiser")
    assert [step.product for step in clock.take()] == [0.5, 1.0]
