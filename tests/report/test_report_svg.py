"""Scales, ticks and elements."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.report.svg import Axis, element, epoch_axis, linear_axis, log_axis, path, share

FINITE = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_linear_axis_holds_its_values_with_a_few_evenly_spaced_ticks(values: list[float]) -> None:
    axis = linear_axis("loss", values)
    reach = axis.high - axis.low
    assert axis.low <= min(values) + 1e-6 * reach
    assert axis.high >= max(values) - 1e-6 * reach
    places = [value for value, _ in axis.ticks]
    assert 2 <= len(places) <= 7
    assert (places[0], places[-1]) == (axis.low, axis.high)
    steps = [after - before for before, after in pairwise(places)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)
    assert len({label for _, label in axis.ticks}) == len(places)


def test_linear_axis_of_percentages_ends_at_100() -> None:
    axis = linear_axis("accuracy", [0.83, 0.997], percent=True)
    assert axis.ticks[-1] == (1.0, "100")
    assert [label for _, label in axis.ticks] == ["80", "85", "90", "95", "100"]


def test_ticks_of_a_log_axis_are_numbers_as_people_write_them() -> None:
    assert [text for _, text in log_axis("seconds", [1.5, 5_000.0]).ticks] == ["1", "10", "100", "1,000", "10,000"]
    assert [text for _, text in log_axis("loss", [0.002, 0.9]).ticks] == ["0.001", "0.01", "0.1", "1"]


@given(st.lists(st.floats(min_value=1e-8, max_value=1e8), min_size=1, max_size=20))
def test_log_axis_holds_its_values(values: list[float]) -> None:
    axis = log_axis("loss", values)
    assert axis.low <= min(values) * (1 + 1e-6)
    assert axis.high >= max(values) * (1 - 1e-6)
    assert all(axis.low <= value <= axis.high * (1 + 1e-6) for value, _ in axis.ticks)
    assert 2 <= len(axis.ticks) <= 10


def test_place_is_linear_or_logarithmic_and_clipped() -> None:
    linear, log = Axis("", 0, 10, ()), Axis("", 0.01, 1, (), log=True)
    assert linear.place(2.5, 100, 200) == 125
    assert log.place(0.1, 0, 100) == pytest.approx(50)
    assert (linear.place(-3, 0, 1), linear.place(30, 0, 1), log.place(0, 0, 1)) == (0, 1, 0)


@given(st.integers(min_value=1, max_value=50), st.integers(min_value=0, max_value=500))
def test_epoch_axis_labels_the_first_and_the_last_epoch(first: int, more: int) -> None:
    axis = epoch_axis([first, first + more])
    labels = [label for _, label in axis.ticks]
    assert labels[0] == str(first)
    assert labels[-1] == str(first + more)
    assert len(set(labels)) == len(labels) <= 9


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]).filter(lambda c: c not in "\ufffe\uffff")))
def test_text_and_attributes_are_escaped(words: str) -> None:
    parsed = ElementTree.fromstring(element("text", words, aria_label=words, x=1.25))
    assert parsed.text == words or (parsed.text is None and not words)
    assert parsed.get("x") == "1.2"
    assert "".join((parsed.get("aria-label") or "").split()) == "".join(words.split())
    assert len(parsed) == 0


def test_path_drops_points_that_fall_together() -> None:
    assert path([0, 0.01, 3], [0, 0.01, 4.26]) == "M0 0L3 4.3"


@given(st.floats(min_value=-5, max_value=5))
def test_share_stays_inside_the_drawing(value: float) -> None:
    shown = float(share(value).removesuffix("%"))
    assert 0 <= shown <= 100
    if 0 <= value <= 1:
        assert math.isclose(shown, value * 100, abs_tol=0.006)
