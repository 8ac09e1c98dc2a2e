"""Threads that step aside where another program takes a core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tintype.config import RunConfig
from tintype.ranks.world import ALONE
from tintype.runtime import Runtime
from tintype.training.threads import FIRST_STEPS, LATE_STEPS, SteppingAside, Threads, choose_computing


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Times:
    """A wall clock and a processor clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.used = 10.0, 5.0
        clocks = SimpleNamespace(perf_counter=lambda: self.wall, process_time=lambda: self.used)
        monkeypatch.setattr("tintype.training.threads.time", clocks)

    def pass_by(self, wall: float, used: float) -> None:
        self.wall += wall
        self.used += used


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


@pytest.mark.parametrize(("used", "is_crowded"), [(2.0, False), (1.85, False), (1.7, True), (1.0, True)])
def test_a_core_that_was_not_ours_is_noticed(times: Times, used: float, is_crowded: bool) -> None:
    threads = Threads(2)
    threads.use(2)
    times.pass_by(1.0, used)
    assert threads.is_crowded is is_crowded


def test_a_single_thread_is_never_crowded(times: Times) -> None:
    threads = Threads(1)
    threads.use(1)
    times.pass_by(1.0, 0.1)
    assert not threads.is_crowded


@pytest.mark.parametrize(
    ("count", "had", "fewer"),
    [(2, 1.5, 1), (2, 0.1, 1), (8, 7.5, 7), (8, 6.6, 5), (8, 1.0, 4), (3, 2.9, 2), (3, 0.5, 1), (1, 1.0, 1)],
)
def test_others_are_left_a_core_each(times: Times, count: int, had: float, fewer: int) -> None:
    threads = Threads(count)
    threads.use(count)
    times.pass_by(1.0, had)
    assert threads.fewer == fewer


def test_several_late_steps_leave_one_thread(times: Times) -> None:
    threads = Threads(2)
    threads.use(2)
    threads.expect(0.1)
    for _ in range(LATE_STEPS - 1):
        times.pass_by(0.3, 0.3)
        threads.step()
    assert torch.get_num_threads() == 2
    times.pass_by(0.1, 0.2)
    threads.step()  # one in time: it was an accident
    for _ in range(LATE_STEPS):
        assert torch.get_num_threads() == 2
        times.pass_by(0.3, 0.3)
        threads.step()
    assert torch.get_num_threads() == 1


def test_nothing_is_late_where_nothing_is_expected(times: Times) -> None:
    threads = Threads(2)
    threads.use(2)
    for _ in range(3 * LATE_STEPS):
        times.pass_by(100.0, 1.0)
        threads.step()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("used", "alone", "count"), [(2.0, 0.1, 2), (1.0, 0.5, 1), (1.0, 0.85, 1), (1.0, 0.95, 2), (1.0, 3.0, 2)]
)
def test_one_thread_is_taken_where_others_have_a_core_and_it_is_clearly_faster(
    times: Times, used: float, alone: float, count: int
) -> None:
    threads = Threads(2)

    def timed() -> float:
        if torch.get_num_threads() == 2:
            times.pass_by(1.0, used)
            return 1.0
        times.pass_by(alone, alone)
        return alone

    assert threads.choose(timed) == (1.0 if count == 2 else alone)
    assert torch.get_num_threads() == count
    times.pass_by(1.0, 2.0)
    threads.use(2)
    times.pass_by(1.0, 2.0)
    assert not threads.is_crowded, "what was before does not count"


@pytest.mark.parametrize(
    ("changes", "used", "alone", "count"),
    [
        ({}, 1.5, 0.3, 1),
        ({}, 1.5, 0.8, 2),  # faster, but perhaps by chance
        ({}, 2.0, 0.3, 2),  # the cores were ours
        ({"threads": 2}, 1.5, 0.3, 2),
        ({"precision": "bf16"}, 1.5, 0.3, 2),
    ],
)
def test_a_run_takes_fewer_threads_beside_a_busy_program(
    times: Times, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], used: float, alone: float, count: int
) -> None:
    def measured(runtime: Runtime, *_: object) -> Runtime:
        return replace(runtime, precision="bf16", evidence=f"measured with {runtime.threads}")

    def step(_runtime: Runtime, _network: object, _inputs: object, begin: Callable[[], None]) -> float:
        times.pass_by(5.0, 5.0)  # a thread that builds kernels says nothing of others
        begin()
        seconds = 1.0 if torch.get_num_threads() == 2 else alone
        times.pass_by(seconds, used / 2 * torch.get_num_threads() * seconds)
        return seconds

    monkeypatch.setattr("tintype.training.threads.usable_cores", lambda: 2)
    monkeypatch.setattr("tintype.training.threads.choose_precision", measured)
    monkeypatch.setattr("tintype.training.threads.step_seconds", step)
    torch.set_num_threads(2)
    runtime = Runtime(torch.device("cpu"), 2, 0, world=ALONE)
    config = RunConfig().replace(changes)
    runtime, said = choose_computing(runtime, torch.nn.Identity(), torch.zeros(6, 1), config)
    assert runtime.threads == torch.get_num_threads() == count
    assert runtime.evidence == f"measured with {count}"
    assert runtime.steps_aside is (count == 2 and not changes)
    assert said is None if count == 2 else said is not None and said.endswith("number of threads: 2: 6, 1: 20")


class Steps:
    """A run's steps, of 0.1 s each with two threads on cores of its own."""

    def __init__(self, times: Times) -> None:
        self.times, self.said = times, list[str]()
        torch.set_num_threads(2)
        self.aside = SteppingAside(2, self.said.append)

    def take(self, count: int, seconds: float = 0.1, cores: float = 2.0) -> None:
        for _ in range(count):
            self.times.pass_by(seconds, cores * seconds)
            self.aside.step()


@pytest.fixture
def steps(times: Times) -> Steps:
    return Steps(times)


def test_a_run_steps_aside_and_comes_back(steps: Steps) -> None:
    steps.take(2 * FIRST_STEPS)
    steps.take(7, 0.3, 1.5)  # 2.1 s
    assert torch.get_num_threads() == 1
    assert steps.said == [
        "steps take 3.0 times as long as at first, and a part of the cores' time goes elsewhere: 1 of 2 threads until "
        "that is over"
    ]
    steps.take(299, 0.2, 1.0)
    assert torch.get_num_threads() == 1
    steps.take(1, 0.2, 1.0)  # a minute has passed
    assert torch.get_num_threads() == 2
    steps.take(7, 0.3, 1.5)
    assert torch.get_num_threads() == 1, "it was not over"
    steps.take(300, 0.2, 1.0)
    steps.take(100)
    assert torch.get_num_threads() == 2
    assert len(steps.said) == 1


def test_trying_again_costs_little_where_steps_are_long(steps: Steps) -> None:
    steps.take(FIRST_STEPS)
    steps.take(5, 4.0, 1.5)  # 20 s with all threads, so that 400 s go by with one
    steps.take(398, 1.0, 1.0)
    assert torch.get_num_threads() == 1
    steps.take(3, 1.0, 1.0)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("count", "seconds", "cores"),
    [
        (6, 0.3, 1.5),  # over before two seconds are
        (4, 1.0, 1.5),  # two validations and two steps
        (100, 0.24, 1.5),  # somewhat late
        (100, 0.3, 1.9),  # late, on cores of its own
    ],
)
def test_a_run_keeps_its_threads(steps: Steps, count: int, seconds: float, cores: float) -> None:
    steps.take(FIRST_STEPS)
    for _ in range(3):
        steps.take(count, seconds, cores)
        steps.take(1)
    assert torch.get_num_threads() == 2
    assert steps.said == []


def test_what_the_environment_has_asked_for_is_said(times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tintype.training.threads.choose_precision", lambda runtime, *_: runtime)
    monkeypatch.setattr("tintype.training.threads.step_seconds", lambda *_: 1.0)
    monkeypatch.setattr("tintype.training.threads.usable_cores", lambda: 4)
    nothing = torch.nn.Identity(), torch.zeros(6, 1)
    said = [
        choose_computing(Runtime(torch.device("cpu"), count, 0), *nothing, RunConfig().replace(changes))[1]
        for count, changes in ((4, {}), (1, {}), (1, {"threads": 1}))
    ]
    assert said == [None, "OMP_NUM_THREADS says so; there are 4 cores", None]
