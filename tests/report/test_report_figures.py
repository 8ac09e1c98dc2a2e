"""The drawings: what they show, and that nothing in them needs an inline style."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from tintype.evaluation.stats import wilson as reference_wilson
from tintype.records import EpochRecord
from tintype.report import figures

MakeHistory = Callable[..., list[EpochRecord]]
BIN = {"confidence": 0.9, "accuracy": 0.8, "low": 0.7, "high": 0.9, "n": 40}


def parse(svg: Markup | str) -> ElementTree.Element:
    assert "style=" not in svg
    assert "<script" not in svg
    return ElementTree.fromstring(svg)


def labelled(root: ElementTree.Element, tag: str, style: str) -> list[ElementTree.Element]:
    return [item for item in root.iter(tag) if style in (item.get("class") or "").split()]


@given(st.integers(min_value=1, max_value=20_000), st.data())
def test_wilson_agrees_with_the_evaluation_s_own(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(min_value=0, max_value=n))
    expected = reference_wilson(right, n)
    assert figures.wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_loss_chart_draws_both_lines_and_marks_the_kept_epoch(make_history: MakeHistory) -> None:
    history = make_history(10)
    chart = figures.loss_chart(history, 7, 144)
    root = parse(chart.svg)
    (train,), (validation,) = labelled(root, "path", "train"), labelled(root, "path", "validation")
    assert train.get("d", "").count("L") == validation.get("d", "").count("L") == 9
    notes = [item.text for item in labelled(root, "text", "note")]
    assert notes == ["kept: 7"]
    (kept,) = labelled(root, "path", "kept")
    seventh = re.findall(r"[ML]([\d.]+) ", train.get("d", ""))[6]
    assert kept.get("d", "").startswith(f"M{seventh} ")
    assert "144" in chart.caption
    assert "epoch 7" in chart.caption
    assert [words for _, words in chart.legend] == ["training", "validation"]
    lowest = min(history, key=lambda row: row.validation_loss or 0)
    assert f"after epoch {lowest.epoch}" in (root.get("aria-label") or "")


def test_a_run_without_validation_has_one_line_and_says_so(make_history: MakeHistory) -> None:
    chart = figures.accuracy_chart(make_history(5, validation=False), 5, 0)
    root = parse(chart.svg)
    assert not labelled(root, "path", "validation")
    assert chart.legend == ()
    assert "no validation set" in chart.caption


def test_validation_accuracy_has_a_band_that_narrows_with_n(make_history: MakeHistory) -> None:
    heights = []
    for n in (50, 5000):
        (band,) = labelled(parse(figures.accuracy_chart(make_history(8), 8, n).svg), "path", "band")
        points = [float(y) for y in re.findall(r" ([\d.]+)", band.get("d", ""))]
        heights.append(points[8] - points[7])  # low and high end of the last epoch stand side by side
    assert heights[0] > 5 * heights[1] > 0


def test_a_loss_that_explodes_once_is_drawn_on_a_log_scale(make_history: MakeHistory) -> None:
    history = make_history(20)
    assert "log scale" not in figures.loss_chart(history, 20, 100).svg
    history[0] = replace(history[0], train_loss=900.0)
    assert "log scale" in figures.loss_chart(history, 20, 100).svg


@pytest.mark.parametrize("epochs", [1, 2, 37, 1000])
def test_every_chart_stays_small_and_inside_its_frame(make_history: MakeHistory, epochs: int) -> None:
    history = make_history(epochs)
    charts = [
        figures.loss_chart(history, 1, 9),
        figures.accuracy_chart(history, 1, 9),
        figures.learning_rate_chart(history, 1),
    ]
    for chart in charts:
        assert len(chart.svg) < 60_000
        for item in labelled(parse(chart.svg), "path", "line"):
            numbers = [float(number) for number in re.findall(r"[\d.]+", item.get("d", ""))]
            assert all(0 <= x <= figures.WIDTH for x in numbers[::2])
            assert all(0 <= y <= figures.HEIGHT for y in numbers[1::2])


def test_reliability_shows_every_bin_with_its_n() -> None:
    bins = [{**BIN, "confidence": 0.6, "n": 10}, BIN]
    chart = figures.reliability_chart(bins)
    root = parse(chart.svg)
    hints = [item.text or "" for item in root.iter("title")]
    assert [hint.rsplit("n = ")[1] for hint in hints] == ["10", "40"]
    bars = [float(item.get("height") or 0) for item in labelled(root, "rect", "amount")]
    assert bars[1] == pytest.approx(4 * bars[0])
    assert "50" in chart.caption


def test_a_curve_chart_runs_from_corner_to_corner() -> None:
    chart = figures.curve_chart("ROC", "words", [0.0, 0.1, 1.0], [0.0, 0.9, 1.0], ("x", "y"), diagonal=True)
    root = parse(chart.svg)
    (line,), (ideal,) = labelled(root, "path", "validation"), labelled(root, "path", "ideal")
    ends = re.findall(r"[\d.]+ [\d.]+", line.get("d", ""))
    assert [ends[0], ends[-1]] == re.findall(r"[\d.]+ [\d.]+", ideal.get("d", ""))


def test_strip_places_interval_and_baseline() -> None:
    root = parse(figures.strip((0.95, 0.92, 0.97), "", floor=0.9, mark=0.91))
    (interval,), (dot,) = labelled(root, "line", "range"), labelled(root, "circle", "value")
    (mark,) = labelled(root, "line", "baseline")
    assert (interval.get("x1"), dot.get("cx"), interval.get("x2"), mark.get("x1")) == ("20%", "50%", "70%", "10%")
    assert root.get("aria-hidden") == "true"
    assert not labelled(parse(figures.strip((0.95, 0.92, 0.97), "", floor=0.9, mark=0.1)), "line", "baseline")


def test_stacked_bar_shares_its_width_out() -> None:
    root = parse(figures.stacked_bar([("train", 60), ("validation", 0), ("test", 20)], 160))
    parts = [(item.get("class"), item.get("x"), item.get("width")) for item in root.iter("rect")]
    assert parts == [("part train", "0%", "37.5%"), ("part test", "37.5%", "12.5%")]
