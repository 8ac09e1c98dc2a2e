from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, skew
from scipy.stats import t as student

from tintype.evaluation.stats import mcnemar, mean_interval, score_interval, wilson, wilson_bounds


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5_000))
    return draw(st.one_of(st.just(0), st.just(n), st.integers(0, n))), n


@given(counts())
def test_wilson_agrees_with_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    interval = wilson(successes, n)
    oracle = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert interval.value == successes / n
    assert interval.n == n
    assert interval.low == pytest.approx(oracle.low, abs=1e-12)
    assert interval.high == pytest.approx(oracle.high, abs=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_eighteen_of_eighteen_is_not_certainty() -> None:
    interval = wilson(18, 18)
    assert (interval.value, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(0.8241, abs=5e-5)


def test_wilson_without_images_says_nothing() -> None:
    interval = wilson(0, 0)
    assert (interval.low, interval.high, interval.n) == (0.0, 1.0, 0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and n={n}. Got {successes}"):
        wilson(successes, n)


def test_wilson_bounds_broadcast_and_take_any_n() -> None:
    low, high = wilson_bounds(np.array([[0.0, 0.5, 1.0]]), np.array([[0.0], [1e-300], [4.0]]))
    assert low.shape == high.shape == (3, 3)
    assert (low[0] == 0).all()
    assert (high[0] == 1).all()
    assert (high[1] - low[1] > 0.49).all()
    assert low[2, 1] == pytest.approx(wilson(2, 4).low)


@pytest.mark.parametrize("n", [5, 18, 100, 2_000])
def test_wilson_covers_the_true_share(n: int) -> None:
    """Coverage is computed exactly, by summing the probabilities of the outcomes whose interval holds the truth."""
    outcomes = np.arange(n + 1)
    low, high = wilson_bounds(outcomes / n, n)
    shares = np.linspace(0.02, 0.98, 193)
    coverage = [binom.pmf(outcomes, n, share)[(low <= share) & (share <= high)].sum() for share in shares]
    assert 0.94 < np.mean(coverage) < 0.97
    assert min(coverage) > 0.83


@given(counts())
def test_a_share_in_other_clothes_has_wilsons_interval(case: tuple[int, int]) -> None:
    successes, n = case
    share = successes / n
    interval = score_interval(share, share * (1 - share) / n, most=n, n=n)
    assert interval.low == pytest.approx(wilson(successes, n).low, abs=1e-9)
    assert interval.high == pytest.approx(wilson(successes, n).high, abs=1e-9)


def test_score_interval_does_not_believe_a_vanishing_variance() -> None:
    assert score_interval(1.0, 0.0, most=18, n=18) == wilson(18, 18)
    assert score_interval(0.9, 1e-12, most=10, n=50).low == pytest.approx(wilson(9, 10).low)
    assert score_interval(1 + 1e-15, 0.0, most=0.0, n=3).low == 0.0


def draw_losses(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Losses of a network that is right 88 times in 100 and mostly sure of it."""
    margins = 3 + 2 * random.normal(size=shape)
    signs = np.where(random.random(shape) < 1 / (1 + np.exp(-margins)), 1, -1)
    return np.logaddexp(0, -signs * margins)


@pytest.mark.parametrize("n", [100, 1_000])
def test_mean_interval_covers_the_mean_of_skewed_losses(n: int) -> None:
    random = np.random.default_rng(5)
    true = float(draw_losses(random, (1_000, 1_000)).mean())
    samples = draw_losses(random, (1_000, n))
    intervals = [mean_interval(row, 0.0, 16.0) for row in samples]
    above = float(np.mean([interval.low > true for interval in intervals]))
    below = float(np.mean([interval.high < true for interval in intervals]))
    assert above + below == pytest.approx(0.05, abs=0.025)
    # Where a symmetric interval fails: it lies below the truth when the rare large losses are not in the sample.
    reach = 1.96 * samples.std(axis=1, ddof=1) / math.sqrt(n)
    assert below < float(np.mean(samples.mean(axis=1) + reach < true))


@given(st.lists(st.floats(0, 16, width=32), min_size=1, max_size=30))
def test_mean_interval_is_ordered_and_bounded(values: list[float]) -> None:
    interval = mean_interval(np.array(values), 0.0, 16.0)
    assert interval.value == pytest.approx(float(np.mean(values)))
    assert interval.n == len(values)
    assert 0 <= interval.low <= interval.value <= interval.high <= 16


def test_mean_interval_of_symmetric_values_is_students() -> None:
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    interval = mean_interval(values, -100, 100)
    reach = student.ppf(0.975, 4) * values.std(ddof=1) / math.sqrt(5)
    assert interval.low == pytest.approx(-reach, rel=1e-6)
    assert interval.high == pytest.approx(reach, rel=1e-6)


def test_mean_interval_ends_where_halls_transform_meets_students_quantiles() -> None:
    values = np.random.default_rng(0).lognormal(size=60)
    interval = mean_interval(values, 0, 100)
    bend = skew(values) / math.sqrt(60)
    for end, quantile in ((interval.low, student.ppf(0.975, 59)), (interval.high, student.ppf(0.025, 59))):
        statistic = (values.mean() - end) / (values.std(ddof=1) / math.sqrt(60))
        transformed = statistic + bend * statistic**2 / 3 + bend**2 * statistic**3 / 27 + bend / 6
        assert transformed == pytest.approx(quantile)


def test_mean_of_one_image_says_nothing_and_of_equal_images_everything() -> None:
    one = mean_interval(np.array([0.3]), 0.0, 2.0)
    assert (one.value, one.low, one.high) == (0.3, 0.0, 2.0)
    equal = mean_interval(np.full(7, 0.5), 0.0, 2.0)
    assert (equal.low, equal.high) == (0.5, 0.5)


@given(st.integers(0, 3_000), st.integers(0, 3_000))
def test_mcnemar_agrees_with_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9, abs=1e-250)
