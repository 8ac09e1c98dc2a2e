"""Differences between a model's test and another set."""

from __future__ import annotations

import numpy as np
import pytest

from tintype.evaluation.stats import wilson
from tintype.records import Evaluation, Interval
from tintype.report.comparison import class_difference_rows, comparison_headline, difference, difference_rows


def test_difference_is_newcombe_s_method_10() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, example (a): 56/70 against 48/80.
    change = difference(wilson(56, 70), wilson(48, 80))
    assert (change.value, change.low, change.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert change.n == 70


def test_difference_covers_the_truth_in_95_of_100() -> None:
    random = np.random.default_rng(11)
    covered = 0
    for _ in range(2000):
        one, other = int(random.binomial(120, 0.9)), int(random.binomial(400, 0.97))
        change = difference(wilson(one, 120), wilson(other, 400))
        covered += change.low <= 0.9 - 0.97 <= change.high
    assert 0.93 < covered / 2000 < 0.975


def evaluation(right: int, n: int, classes: tuple[tuple[str, int, int], ...] = ()) -> Evaluation:
    metrics = {"accuracy": wilson(right, n), "loss": Interval(0.5, 0.4, 0.6, n)}
    metrics |= {f"recall/{name}": wilson(hits, of) for name, hits, of in classes}
    return Evaluation("test", metrics, {"confusion_matrix": [[n // 2, 0], [n - n // 2, 0]]})


def test_a_fall_is_said_with_its_interval() -> None:
    told = comparison_headline(evaluation(700, 1000), evaluation(990, 1000), ("a", "b"), "test")
    change = difference(wilson(700, 1000), wilson(990, 1000))
    assert told.verdict.startswith("29.0\xa0points below the 99.0\xa0% of the original test")
    assert f"{-change.high * 100:.1f} to {-change.low * 100:.1f}" in told.verdict
    assert told.remarks == ()
    assert [row.label.split(",")[0] for row in told.strips] == ["Here", "Original test", "Always answering “a”"]


def test_a_difference_within_its_interval_is_not_claimed() -> None:
    told = comparison_headline(evaluation(95, 100), evaluation(97, 100), ("a", "b"), "test")
    assert told.verdict.startswith("Not distinguishable from the 97.0\xa0%")
    assert "−2.0\xa0points" in told.verdict


def test_no_better_than_the_largest_class_is_said() -> None:
    told = comparison_headline(evaluation(52, 100), None, ("a", "b"), "test")
    assert told.verdict == ""
    assert "not shown to be of use" in told.remarks[0]


def test_rows_give_shares_in_points_and_other_figures_in_their_unit() -> None:
    accuracy, loss = difference_rows(evaluation(700, 1000), evaluation(990, 1000))
    assert (accuracy.difference, accuracy.sure) == ("−29.0\xa0points", True)
    assert (loss.difference, loss.sure) == ("0.000", False)


def test_classes_are_sorted_by_their_fall_and_absent_ones_left_out() -> None:
    here = evaluation(150, 200, (("a", 99, 100), ("b", 51, 100)))
    there = evaluation(290, 300, (("a", 98, 100), ("b", 95, 100), ("c", 97, 100)))
    rows = class_difference_rows(here, there, ("a", "b", "c"))
    assert [row.name for row in rows] == ["b", "a"]
    assert [row.sure for row in rows] == [True, False]
