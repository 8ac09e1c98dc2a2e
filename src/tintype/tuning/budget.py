"""Time that a search may take, and the length of its stages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from tintype.errors import ConfigError

REDUCTION = 3
"""Of so many candidates one goes on to the next stage, where it trains so many times longer (Li et al., 2018, find
little difference between 3 and 4)."""

STAGES = 3

TOP_STAGE_SHARE = 0.077
"""Share of a budget of five minutes that a training in the last stage takes: some 20 candidates begin in half of it."""

GROWTH = 0.6
"""A budget that is n times as long has trainings n ** 0.6 times as long, and n ** 0.4 times as many."""

FINAL_SHARE = 0.5
"""Of the budget, without the time for judging, what is set aside for the winner's last training at most; what its
finalists leave over comes to it."""

FINAL_LENGTH = 4
"""Times the training of `tintype train` after which more epochs are not worth their time."""

FINALISTS = 3
"""Candidates that are trained again with another seed."""

REPEATS_SHARE = 0.16
"""Most of the budget that this takes."""

MOST_CLOSING = 0.25
"""Share of the budget that is kept at most for judging the winner: a machine that is busy at the start may be free at
the end."""

SIZE_SHARES = (0.5, 0.75, 1.0)
"""Of the images' side, in each stage."""

SMALLEST_SIDE = 32
"""Images are not made smaller than this."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1h30m`` or ``2d``.

    Raises:
        ConfigError: It is none of these, or nothing at all.
    """
    parts = _PARTS.findall(text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise ConfigError(f"a budget is a time such as 90s, 30m or 1h30m. Got {text!r}.")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ConfigError(f"a budget must be longer than nothing. Got {text!r}.")
    return seconds


@dataclass(frozen=True)
class Stage:
    """One stage of successive halving.

    Attributes:
        number: From 1.
        seconds: That a candidate trains in it.
        size_share: Of the images' side.
    """

    number: int
    seconds: float
    size_share: float

    @property
    def resource(self) -> int:
        """What a candidate has cost by its end, in units of the first stage; Optuna's pruner counts in it."""
        return int(REDUCTION ** (self.number - 1))

    def image_size(self, full: int) -> int:
        """Side in pixels: a multiple of 8 where it is not the full one."""
        if self.size_share == 1 or full < 2 * SMALLEST_SIDE:
            return full
        return min(full, max(SMALLEST_SIDE, round(full * self.size_share / 8) * 8))


@dataclass(frozen=True)
class Schedule:
    """How the time is spent. Times are seconds since the search began.

    Attributes:
        stages: Of the candidates.
        search_ends: When no more candidates are begun.
        repeats: Seconds after that in which finalists are trained again.
        final: Seconds after that for the winner's last training.
        closing: Seconds after that for judging the winner and writing the report.
        budget: All that there are; None where trials count.
    """

    stages: tuple[Stage, ...]
    search_ends: float
    repeats: float
    final: float
    closing: float
    budget: float | None = None

    @property
    def closes(self) -> float:
        """When the report must be there."""
        return self.ends + self.closing

    @property
    def ends(self) -> float:
        """When the winner must be trained, so that it can be judged within the budget."""
        return self.search_ends + self.repeats + self.final


def make_schedule(budget: float | None, full: float | None, closing: float) -> Schedule:
    """Divide the time.

    Args:
        budget: Seconds in all; None: as long as the trials take.
        full: Seconds that the default of `tintype train` would train for; None where it has no epochs.
        closing: Seconds that judging the winner and writing the report take.
    """
    if budget is None:
        last = full or 60.0
        return Schedule(_stages(last), float("inf"), 0.0, last, closing)
    closing = min(closing, MOST_CLOSING * budget)
    last = TOP_STAGE_SHARE * 300 * (budget / 300) ** GROWTH
    last = min(last, budget * TOP_STAGE_SHARE, full or last)
    final = min(FINAL_SHARE * (budget - closing), FINAL_LENGTH * (full or 0.5 * last))
    repeats = min(FINALISTS * last, REPEATS_SHARE * budget)
    return Schedule(_stages(last), budget - repeats - final - closing, repeats, final, closing, budget)


def _stages(last: float) -> tuple[Stage, ...]:
    return tuple(
        Stage(number, last / REDUCTION ** (STAGES - number), share)
        for number, share in zip(range(1, STAGES + 1), SIZE_SHARES, strict=True)
    )


class Clock:
    """Seconds since a search began, over all of its attempts.

    Args:
        used: Seconds that earlier attempts have taken.
        started: When this one began, by ``now``.
        now: The clock.
    """

    def __init__(self, used: float = 0.0, started: float | None = None, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._started = (now() if started is None else started) - used

    @property
    def seconds(self) -> float:
        """That have gone by."""
        return self._now() - self._started
