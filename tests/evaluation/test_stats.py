from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, skew
from scipy.stats import t as student

from tintype.evaluation.stats import (
    crossed_mean,
    crossed_share,
    holm,
    influence_interval,
    mcnemar,
    mean_interval,
    paired_difference,
    score_interval,
    wilson,
    wilson_bounds,
)


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


def test_influences_of_many_alike_images_give_the_interval_of_their_variance() -> None:
    influences, counts = np.array([0.4, -0.1]) / 5_000, np.array([1_000, 4_000])
    found = influence_interval(0.8, influences, counts, most=1e9, n=5_000)
    plain = score_interval(0.8, float(counts @ influences**2), most=1e9, n=5_000)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=2e-5)


def test_a_variance_that_rests_on_one_image_is_not_believed() -> None:
    """One image in a hundred has all the influence: two degrees of freedom, and the prior counts for more."""
    influences, counts = np.array([1e-2, 0.0]), np.array([1, 99])
    found = influence_interval(0.99, influences, counts, most=20.0, n=100)
    variance = (2 * 1e-4 + 10 * 0.99 * 0.01 / 20) / 12
    stretched = variance * float(student.ppf(0.975, 12) / norm.ppf(0.975)) ** 2
    expected = score_interval(0.99, stretched, most=1e9, n=100)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low < score_interval(0.99, 1e-4, most=1e9, n=100).low


@given(st.floats(0.01, 0.99), st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=20), st.floats(1, 1e3))
def test_a_moderated_interval_is_never_narrower_than_its_own_variance_says(
    value: float, influences: list[float], most: float
) -> None:
    of_images, counts = np.array(influences), np.ones(len(influences), dtype=np.int64)
    found = influence_interval(value, of_images, counts, most=most, n=len(influences))
    plain = score_interval(value, float(of_images @ of_images), most=1e12, n=len(influences))
    assert found.low <= plain.low + 1e-9 or not of_images.any()
    assert found.high >= plain.high - 1e-9 or not of_images.any()


def test_without_influence_the_prior_alone_counts() -> None:
    nothing, counts = np.zeros(3), np.array([4, 5, 9])
    assert influence_interval(1.0, nothing, counts, most=18, n=18) == wilson(18, 18)
    assert influence_interval(0.5, nothing, counts, most=18, n=18) == score_interval(0.5, 0.0, most=18, n=18)


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


def test_holm_agrees_with_its_published_example() -> None:
    # S. Holm's procedure as R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") gives it, in another order.
    assert holm([0.03, 0.01, 0.05, 0.02, 0.04]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """Each adjusted value is the largest over the steps down to it of (hypotheses left) times p, at most 1."""
    adjusted = holm(p_values)
    for given_p, found in zip(p_values, adjusted.tolist(), strict=True):
        steps = [sum(other >= p for other in p_values) * p for p in p_values if p <= given_p]
        assert found == pytest.approx(min(1.0, max(steps)))
    assert (adjusted >= np.array(p_values)).all()


def draw_networks(
    random: np.random.Generator, seeds: int, share: float, deviation: float, of_images: np.ndarray
) -> np.ndarray:
    """Which images networks of one recipe get right: some images are harder for all, some seeds fall out better."""
    of_seeds = deviation * random.normal(size=(seeds, 1))
    noise = math.sqrt(0.3) * random.normal(size=(seeds, len(of_images)))
    threshold = float(norm.ppf(share)) * math.sqrt(1 + deviation**2)
    return np.asarray(math.sqrt(0.7) * of_images + noise + of_seeds < threshold)


@pytest.mark.parametrize(("seeds", "n"), [(2, 100), (3, 36), (3, 1_000), (5, 1_000)])
@pytest.mark.parametrize("deviation", [0.0, 0.2])
def test_shares_over_seeds_cover_other_images_and_other_seeds(seeds: int, n: int, deviation: float) -> None:
    """At a deviation of 0.2 seeds differ by 5 points: Wilson's interval would miss the truth in half of the cases."""
    random = np.random.default_rng(seeds * n)
    covered = alone = 0
    for _ in range(300):
        is_right = draw_networks(random, seeds, 0.8, deviation, random.normal(size=n))
        interval = crossed_share(is_right)
        covered += interval.low <= 0.8 <= interval.high
        low, high = wilson_bounds(is_right.mean(), n)
        alone += interval.high - interval.low >= float(high - low) * (1 - 1e-9)
    assert covered / 300 > 0.9
    assert alone == 300  # never narrower than that of as many images: seeds are no images


def test_shares_over_seeds_that_agree_are_wilsons() -> None:
    is_right = np.arange(40) < 33
    for seeds in (1, 2, 5):
        interval = crossed_share(np.stack([is_right] * seeds))
        assert (interval.low, interval.value, interval.high) == pytest.approx(
            (wilson(33, 40).low, 33 / 40, wilson(33, 40).high)
        )
    perfect = crossed_share(np.ones((3, 18), dtype=bool))
    assert perfect.low == pytest.approx(wilson(18, 18).low)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**20))
def test_intervals_over_seeds_are_ordered_and_bounded(seeds: int, n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    is_right = random.random((seeds, n)) < random.random()
    share = crossed_share(is_right)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.value == pytest.approx(is_right.mean())
    losses = random.exponential(size=(seeds, n))
    mean = crossed_mean(losses, 0.0, 16.0)
    assert 0 <= mean.low <= mean.value <= mean.high <= 16
    assert mean.value == pytest.approx(losses.mean())
    plain = mean_interval(losses.mean(axis=0), 0.0, 16.0)
    assert mean.low <= plain.low + 1e-9
    assert mean.high >= plain.high - 1e-9
    difference, p = paired_difference(is_right, random.random((seeds, n)) < 0.5)
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert 0 <= p <= 1


def test_means_over_seeds_cover_other_images_and_other_seeds() -> None:
    random = np.random.default_rng(2)
    covered = plain = 0
    for _ in range(400):
        of_images, of_seeds = random.normal(size=200), 0.3 * random.normal(size=(4, 1))
        values = 3 + of_images + of_seeds + 0.5 * random.normal(size=(4, 200))
        interval, alone = crossed_mean(values, -100, 100), mean_interval(values.mean(axis=0), -100, 100)
        covered += interval.low <= 3 <= interval.high
        plain += alone.low <= 3 <= alone.high
    assert covered / 400 > 0.9
    assert plain / 400 < 0.75


def test_crossed_variance_is_that_of_a_two_way_layout() -> None:
    """Against the mean squares of the textbook's table, summed up cell by cell."""
    random = np.random.default_rng(4)
    values = (random.random((3, 50)) < np.array([[0.5], [0.7], [0.9]])).astype(float)
    grand = values.mean()
    seeds = 50 * sum((row.mean() - grand) ** 2 for row in values) / 2
    images = 3 * sum((column.mean() - grand) ** 2 for column in values.T) / 49
    noise = 0.0
    for s in range(3):
        for i in range(50):
            noise += (values[s, i] - values[s].mean() - values[:, i].mean() + grand) ** 2 / (2 * 49)
    assert images / 150 < grand * (1 - grand) / 50  # averaging over seeds makes images' means vary less
    variance = grand * (1 - grand) / 50 + (seeds - noise) / 150
    freedom = variance**2 / ((seeds / 150) ** 2 / 2)
    effective = grand * (1 - grand) / (variance * (student.ppf(0.975, freedom) / norm.ppf(0.975)) ** 2)
    low, high = wilson_bounds(grand, effective)
    interval = crossed_share(values.astype(bool))
    assert seeds > 3 * noise  # the seeds matter here
    assert (interval.low, interval.high) == pytest.approx((float(low), float(high)))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_one_network_each_has_bonett_and_prices_interval(both: int, only_one: int, only_other: int, none: int) -> None:
    n = both + only_one + only_other + none
    one = np.arange(n) < both + only_one
    other = (np.arange(n) < both) | ((np.arange(n) >= both + only_one) & (np.arange(n) < n - none))
    interval, p = paired_difference(one[None], other[None])
    a, b = (only_one + 1) / (n + 2), (only_other + 1) / (n + 2)
    reach = norm.ppf(0.975) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    assert interval.value == pytest.approx((only_one - only_other) / n)
    assert interval.low == pytest.approx(max(-1, min(interval.value, a - b - reach)))
    assert interval.high == pytest.approx(min(1, max(interval.value, a - b + reach)))
    assert p == mcnemar(only_one, only_other)


def test_difference_of_one_network_each_covers_the_truth() -> None:
    """Exactly, over all outcomes of 20 images: 10 % right by the one alone, 25 % by the other alone."""
    n, p_one, p_other = 20, 0.1, 0.25
    covered = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            one, other = np.arange(n) < a, (np.arange(n) >= a) & (np.arange(n) < a + b)
            interval, _ = paired_difference(one[None], other[None])
            if interval.low <= p_one - p_other <= interval.high:
                covered += binom.pmf(a, n, p_one) * binom.pmf(b, n - a, p_other / (1 - p_one))
    assert 0.93 < covered < 0.99


@pytest.mark.parametrize(("seeds", "n"), [(3, 36), (3, 500), (5, 500)])
@pytest.mark.parametrize("deviation", [0.0, 0.2])
def test_equal_recipes_are_rarely_told_apart(seeds: int, n: int, deviation: float) -> None:
    random = np.random.default_rng(n + seeds)
    alarms = of_one_seed = 0
    for _ in range(400):
        of_images = random.normal(size=n)
        one, other = (draw_networks(random, seeds, 0.8, deviation, of_images) for _ in range(2))
        alarms += paired_difference(one, other)[1] < 0.05
        of_one_seed += paired_difference(one[:1], other[:1])[1] < 0.05
    assert alarms / 400 < 0.075  # 5 % and twice its standard error
    if deviation and n == 500:
        assert of_one_seed / 400 > 0.3  # why one seed says nothing about the recipe


def test_a_recipe_that_scatters_is_told_from_one_that_does_not() -> None:
    """Five seeds of MNIST's labs: with five units in the dense layer 76 to 90 % are right, with 128 some 98.4 %."""
    random = np.random.default_rng(3)

    def networks(shares: list[float]) -> np.ndarray:
        return random.random((len(shares), 10_000)) < np.array(shares)[:, None]

    few, many = networks([0.758, 0.904, 0.838, 0.868, 0.847]), networks([0.984, 0.983, 0.985, 0.985, 0.984])
    interval, p = paired_difference(few, many)
    assert interval.high < -0.05
    assert p < 0.001
    assert paired_difference(many, few)[1] == pytest.approx(p)


def test_a_real_difference_is_found_sooner_with_more_seeds() -> None:
    random = np.random.default_rng(9)
    found = {1: 0, 5: 0}
    for _ in range(100):
        of_images = random.normal(size=500)
        one = draw_networks(random, 5, 0.8, 0.0, of_images)
        other = draw_networks(random, 5, 0.83, 0.0, of_images)
        for seeds in found:
            found[seeds] += paired_difference(one[:seeds], other[:seeds])[1] < 0.05
    assert found[5] > found[1] + 20
