from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.data.shares import Pace, cut, dealt, why_apart


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9))
def test_spans_cover_the_rows_in_order(start: int, count: int, step: int) -> None:
    spans = cut(start, start + count, step)
    assert [row for first, stop in spans for row in range(first, stop)] == list(range(start, start + count))
    assert all(0 < stop - first <= step for first, stop in spans)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.data())
def test_apart_each_keeper_gets_everything_once_from_its_own_ranks(counts: list[int], data: st.DataObject) -> None:
    keepers = [data.draw(st.integers(0, rank)) for rank in range(len(counts))]
    keepers = [keepers[keeper] if keepers[keeper] == keeper else rank for rank, keeper in enumerate(keepers)]
    bounds = [0]
    for count in counts:
        bounds.append(bounds[-1] + count)
    spans = [cut(start, stop, 1) for start, stop in pairwise(bounds)]
    parts = dealt(spans, keepers)
    for keeper in set(keepers):
        theirs = [part for part, its in zip(parts, keepers, strict=True) if its == keeper]
        assert [span for part in theirs for span in part] == cut(0, bounds[-1], 1)
        assert max(map(len, theirs)) - min(map(len, theirs)) <= 1


TRIED = (10, 10)
REST = ([(10, 1000)], [(1010, 2000)])  # 1,980 rows


@pytest.mark.parametrize(
    ("making", "sending", "keepers", "told"),
    [
        ((0.2, 0.2), 0.01, (0, 1), ""),  # apart 39.6 s, shared 19.8 s of making, 1 s of sending
        ((0.2, 0.2), 0.39, (0, 1), ""),  # 38.6 s of sending: as good as nothing would be saved
        ((0.2, 0.2), 0.50, (0, 1), "the link would need 50 s for the rest, the slowest machine 40 s"),
        ((0.2, 0.4), 0.50, (0, 1), ""),  # alone, rank 1 would need 79 s
        ((0.2, 0.2), 0.30, (0, 0), "the link would need 30 s for the rest, the slowest machine 20 s"),
        ((0.001, 0.001), 0.004, (0, 1), ""),  # 0.4 s against 0.2 s: too short to be foretold
    ],
)
def test_machines_part_when_the_link_is_slower(
    making: tuple[float, ...], sending: float, keepers: tuple[int, ...], told: str
) -> None:
    assert why_apart(Pace(TRIED, making, sending), REST, keepers) == told


def test_machines_stay_together_when_one_had_nothing_to_try_or_nothing_is_left() -> None:
    assert why_apart(Pace((10, 0), (0.2, 0.0), 9.0), REST, (0, 1)) == ""
    assert why_apart(Pace(TRIED, (0.2, 0.2), 9.0), ([], []), (0, 1)) == ""
