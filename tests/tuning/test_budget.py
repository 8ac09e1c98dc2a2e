"""Time that is divided: nothing may be promised twice."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.errors import ConfigError
from tintype.tuning.budget import FINAL_LENGTH, REDUCTION, Clock, Stage, make_schedule, parse_duration
from tintype.tuning.pace import Pace


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400), (" 5M ", 300)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 minutes", "1h,5m", "-5m", "0s", "5m5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        parse_duration(text)


@given(
    budget=st.floats(20, 200_000),
    full=st.none() | st.floats(0.5, 50_000),
    closing=st.floats(1, 5_000),
)
def test_the_parts_of_a_schedule_fit_into_the_budget(budget: float, full: float | None, closing: float) -> None:
    schedule = make_schedule(budget, full, closing)
    assert min(schedule.search_ends, schedule.repeats, schedule.final, schedule.closing) > 0
    assert schedule.ends + schedule.closing == pytest.approx(budget)
    assert schedule.closing == pytest.approx(min(closing, 0.25 * budget))
    assert full is None or schedule.final <= FINAL_LENGTH * full + 1e-9
    seconds = [stage.seconds for stage in schedule.stages]
    assert all(later == pytest.approx(REDUCTION * earlier) for earlier, later in pairwise(seconds))
    assert full is None or seconds[-1] <= full + 1e-9
    assert seconds[-1] <= schedule.search_ends  # one candidate at least goes through to the end
    assert [stage.resource for stage in schedule.stages] == [1, 3, 9]


def test_five_minutes_begin_about_twenty_candidates() -> None:
    schedule = make_schedule(300, None, 10)
    through_one_third = sum(stage.seconds / REDUCTION**place for place, stage in enumerate(schedule.stages))
    assert 15 <= schedule.search_ends / through_one_third <= 40


def test_without_a_budget_trials_last_as_long_as_the_default_would() -> None:
    schedule = make_schedule(None, 27.0, 10)
    assert [stage.seconds for stage in schedule.stages] == [3.0, 9.0, 27.0]
    assert math.isinf(schedule.search_ends)
    assert schedule.final == 27.0


@pytest.mark.parametrize(("full", "sizes"), [(28, [28, 28, 28]), (64, [32, 48, 64]), (180, [88, 136, 180])])
def test_images_are_smaller_in_the_first_stages_unless_they_are_small(full: int, sizes: list[int]) -> None:
    stages = [Stage(number + 1, 1.0, share) for number, share in enumerate((0.5, 0.75, 1.0))]
    assert [stage.image_size(full) for stage in stages] == sizes


def test_a_clock_goes_on_from_what_was_used() -> None:
    now = [100.0]
    clock = Clock(used=30.0, started=90.0, now=lambda: now[0])
    assert clock.seconds == 40.0
    now[0] = 105.0
    assert clock.seconds == 45.0


@given(
    per_image=st.floats(1e-6, 1.0),
    images=st.integers(1, 100_000),
    validation=st.integers(0, 20_000),
    batch=st.integers(1, 512),
    seconds=st.floats(0.1, 10_000),
)
def test_a_pace_fills_the_time_and_does_not_overrun_it(
    per_image: float, images: int, validation: int, batch: int, seconds: float
) -> None:
    pace = Pace(per_image, images, validation, min(batch, images))
    chosen = pace.settings(seconds)
    epochs, steps = chosen["fit.epochs"], chosen["fit.steps_per_epoch"] or pace.steps
    assert epochs >= 1
    assert 1 <= steps <= pace.steps
    step = pace.per_image * pace.batch_size
    takes = epochs * (steps * step + pace.validation_seconds)
    shortest = epochs * (min(8, pace.steps) * step + pace.validation_seconds)
    assert takes <= max(1.06 * seconds, shortest) + epochs * step
    whole = pace.epoch_seconds if epochs >= 8 else 0.06 * pace.epoch_seconds
    assert takes >= seconds - whole - epochs * step or takes == pytest.approx(epochs * pace.epoch_seconds)
