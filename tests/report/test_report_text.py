"""Figures as words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.records import Interval
from tintype.report import text


@given(st.floats(min_value=1e-4, max_value=1 - 1e-4), st.integers(min_value=1, max_value=100_000))
def test_percent_never_claims_all_or_nothing(value: float, n: int) -> None:
    shown = float(text.percent(value, n, unit=False))
    assert 0 < shown < 100
    assert shown == pytest.approx(value * 100, abs=0.0501)


@pytest.mark.parametrize(
    ("value", "n", "shown"),
    [
        (1.0, 18, "100\xa0%"),
        (0.0, 18, "0\xa0%"),
        (0.98889, 360, "98.9\xa0%"),
        (0.9952, 10_000, "99.52\xa0%"),
        (0.9996, 1000, "99.96\xa0%"),
        (float("nan"), 5, "–"),
        (None, 5, "–"),
    ],
)
def test_percent(value: float | None, n: int, shown: str) -> None:
    assert text.percent(value, n) == shown


def test_interval_is_in_the_metric_s_own_unit() -> None:
    assert text.interval_range("accuracy", Interval(0.9889, 0.9718, 0.9957, 360)) == "97.2 to 99.6\xa0%"
    assert text.interval_range("loss", Interval(0.0931, 0.0712, 0.1189, 360)) == "0.0712 to 0.119"
    assert text.interval_range("temperature", Interval(1.2, 1.2, 1.2, 360)) == ""
    assert text.interval_range("f1/cats", Interval(0.5, float("nan"), 1.0, 3)) == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.42, "0.4\xa0s"),
        (9.96, "10\xa0s"),
        (59.6, "1\xa0min 0\xa0s"),
        (432.1, "7\xa0min 12\xa0s"),
        (3599.7, "1\xa0h 0\xa0min"),
        (7500, "2\xa0h 5\xa0min"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_points_have_a_real_minus_sign_and_no_negative_zero() -> None:
    assert text.points(-0.2812) == "−28.1\xa0points"
    assert text.points(0.2812) == "+28.1\xa0points"
    assert text.points(-0.0001) == "0.0\xa0points"
    assert text.points(-0.2812, sign=False) == "28.1\xa0points"


@given(st.text(st.characters(codec=None)))
def test_printable_text_can_be_written_and_shows_what_it_is(name: str) -> None:
    shown = text.printable(name)
    shown.encode("utf-8")
    assert not set(shown) & {*map(chr, range(9)), "\u202e", "\u2066", "\x7f"}
    ordinary = "".join(char for char in name if char.isalnum())
    assert ordinary in shown or not name.isalnum()


def test_printable_reaches_into_lists_and_keys_and_shows_undecodable_bytes() -> None:
    assert text.printable({"a\udcff": ["\x00", ("ü", 3)]}) == {"a\\xff": ["\ufffd", ("ü", 3)]}
