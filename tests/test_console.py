"""What people see while they wait."""

from __future__ import annotations

import re

import pytest

from tintype.console import Display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the display sees, for a test to move."""
    now = [1000.0]
    monkeypatch.setattr("tintype.console.time.monotonic", lambda: now[0])
    return now


def test_what_is_gone_on_with_has_the_time_left_of_its_own_pace(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display()
    display.on_progress("seconds searched", 60, 300)
    clock[0] += 20
    display.on_progress("seconds searched", 80, 300)
    assert re.search(r"80 of 300, 3:40 left", capsys.readouterr().err)


def test_a_rate_is_shown_where_it_says_something(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    for done in (0, 60, 70):
        display.on_progress("decoding", done, 300)
        clock[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "decoding: 60 of 300, 3/s, 1:20 left",
        "decoding: 70 of 300, 2:11 left",
    ]


def test_no_time_left_is_made_up_where_nothing_has_moved(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display()
    display.on_progress("decoding", 5, 300)
    clock[0] += 20
    display.on_progress("decoding", 5, 300)
    said = capsys.readouterr().err
    assert "5 of 300" in said
    assert "left" not in said
