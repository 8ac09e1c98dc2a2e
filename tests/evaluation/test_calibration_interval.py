from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import xlogy
from scipy.stats import binom, skew

from tintype.evaluation import calibration_interval as module
from tintype.evaluation.calibration_interval import calibration_interval
from tintype.evaluation.stats import wilson


@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("confidence", [0.0, 0.31, 0.5, 0.97, 1.0])
def test_the_mean_distance_is_that_of_the_binomial_distribution(count: int, confidence: float) -> None:
    accuracies_T1 = np.array([[0.0], [0.004], [0.3], [0.5], [0.98], [1.0]])
    found = module._mean_distance(np.array([confidence]), accuracies_T1, np.array([float(count)]))
    right = np.arange(count + 1)
    expected = binom.pmf(right, count, accuracies_T1) @ np.abs(right / count - confidence)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-12)


def test_moments_are_those_of_drawn_test_sets() -> None:
    """Bins of which some are well and some badly calibrated; both the images of a bin and the right ones vary."""
    confidences, accuracies = np.array([0.55, 0.7, 0.85, 0.98]), np.array([0.75, 0.71, 0.75, 0.96])
    counts = np.array([60, 50, 90, 200])
    random = np.random.default_rng(0)
    drawn_RB = random.multinomial(400, counts / 400, size=100_000)
    right_RB = random.binomial(drawn_RB, accuracies)
    figures = np.abs(right_RB - drawn_RB * confidences).sum(axis=1) / 400
    mean, deviation, skewness = (
        float(item[0]) for item in module._moments(confidences, accuracies[None], counts.astype(np.float64))
    )
    assert mean == pytest.approx(figures.mean(), rel=0.005)
    assert deviation == pytest.approx(figures.std(), rel=0.03)
    assert skewness == pytest.approx(float(skew(figures)), abs=0.1)


@pytest.mark.parametrize("observed", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("confidence", [0.25, 0.88, 0.999])
def test_accuracies_maximise_the_likelihood_at_their_calibration_error(observed: float, confidence: float) -> None:
    accuracies_T1 = module._most_likely_accuracies(np.array([confidence]), np.array([observed]))
    gaps = np.abs(accuracies_T1[:, 0] - confidence)
    assert gaps[0] == 0
    assert (np.diff(gaps) >= -1e-12).all()
    assert np.diff(gaps).max() < 0.2  # no error in between is left out
    assert accuracies_T1[len(gaps) // 2, 0] == pytest.approx(observed)
    grid = np.linspace(0, 1, 20_001)
    likelihood = xlogy(observed, grid) + xlogy(1 - observed, 1 - grid)
    for multiplier, accuracy in list(zip(module._MULTIPLIERS, accuracies_T1[:, 0], strict=True))[1::8]:
        same_side = (grid >= confidence) if accuracy >= confidence else (grid <= confidence)
        best = np.max((likelihood + multiplier * np.abs(grid - confidence))[same_side])
        reached = xlogy(observed, accuracy) + xlogy(1 - observed, 1 - accuracy)
        assert reached + multiplier * abs(accuracy - confidence) >= best - 1e-6 * (1 + abs(best))


@given(st.lists(st.tuples(st.floats(0.1, 1), st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=15))
@settings(deadline=None)
def test_the_figure_lies_in_its_interval(bins: list[tuple[float, int, float]]) -> None:
    confidences, counts = np.array([row[0] for row in bins]), np.array([row[1] for row in bins])
    correct = np.round(np.array([row[2] for row in bins]) * counts).astype(np.int64)
    interval = calibration_interval(confidences, correct, counts)
    assert interval.value == pytest.approx(np.abs(correct - counts * confidences).sum() / counts.sum())
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.n == counts.sum()


def test_few_images_without_a_mistake_allow_for_some() -> None:
    """At a confidence near 1 the error can only be mistakes that were not seen: as many as Wilson's interval says."""
    for n in (5, 18, 100, 1_000, 20_000):
        interval = calibration_interval(np.array([0.99999]), np.array([n]), np.array([n]))
        assert interval.low == 0
        assert interval.high == pytest.approx(1 - wilson(n, n).low, rel=0.2)


def test_a_gap_beyond_doubt_is_a_plain_share() -> None:
    """One bin, far from its confidence: the interval of the accuracy, moved."""
    interval = calibration_interval(np.array([0.95]), np.array([300]), np.array([500]))
    share = wilson(300, 500)
    assert interval.value == pytest.approx(0.35)
    assert interval.low == pytest.approx(0.95 - share.high, abs=2e-3)
    assert interval.high == pytest.approx(0.95 - share.low, abs=2e-3)


def test_many_images_leave_no_doubt() -> None:
    confidences, shares = np.array([0.6, 0.8, 0.97]), np.array([0.2, 0.3, 0.5])
    widths = []
    for n in (100, 10_000, 1_000_000):
        counts = np.round(shares * n).astype(np.int64)
        interval = calibration_interval(confidences, np.round(counts * (confidences - 0.1)).astype(np.int64), counts)
        assert interval.low <= 0.1 + 1e-9
        assert interval.high >= 0.1 - 1e-9
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 5
    assert widths[2] < widths[1] / 9


@pytest.mark.parametrize(
    "accuracies",
    [
        pytest.param((0.90, 0.96, 0.985, 0.995, 0.999), id="underconfident"),
        pytest.param((0.56, 0.67, 0.78, 0.88, 0.97), id="honest"),
        pytest.param((0.52, 0.55, 0.65, 0.80, 0.90), id="overconfident"),
    ],
)
@pytest.mark.parametrize("n", [100, 400])
def test_it_covers_whichever_way_confidence_is_wrong(accuracies: tuple[float, ...], n: int) -> None:
    confidences, shares = np.array([0.56, 0.67, 0.78, 0.88, 0.97]), np.array([0.03, 0.05, 0.08, 0.14, 0.7])
    true = float(shares @ np.abs(accuracies - confidences))
    random = np.random.default_rng(n)
    held, low_of = [], []
    for _ in range(300):
        counts = random.multinomial(n, shares)
        correct, used = random.binomial(counts, accuracies), counts > 0
        interval = calibration_interval(confidences[used], correct[used], counts[used])
        held.append(interval.low <= true <= interval.high)
        low_of.append(interval.low)
    assert np.mean(held) >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / 300)
    if true > 0.05 and n == 400:
        assert np.mean(np.array(low_of) > 0) > 0.9  # it does not cover by saying nothing
