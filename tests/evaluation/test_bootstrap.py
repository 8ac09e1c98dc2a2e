"""Bootstrap intervals against scipy's, the swapping test against full enumeration and McNemar's test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tintype.evaluation import bootstrap as module
from tintype.evaluation.bootstrap import bootstrap, draws, metric_intervals, paired_intervals, swap_test, unseen
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import mcnemar, paired_difference, wilson
from tintype.evaluation.weighted import METRICS, Statistics, image_values
from tintype.records import Interval, Predictions

Floats = NDArray[np.float64]


def predictions_of(labels: NDArray[np.int64], probabilities_NK: Floats) -> Predictions:
    n, classes = probabilities_NK.shape
    names = tuple(f"class {number}" for number in range(classes))
    paths = tuple(f"{number:05}.png" for number in range(n))
    return Predictions("test", names, paths, np.asarray(labels, dtype=np.int64), probabilities_NK.astype(np.float32))


def answers(is_right: NDArray[np.bool_], classes: int = 2, sure: float = 0.8) -> Predictions:
    """Images of all classes in turn, right or wrong as given, always equally sure."""
    n = len(is_right)
    labels = np.arange(n) % classes
    probabilities = np.full((n, classes), (1 - sure) / (classes - 1))
    probabilities[np.arange(n), np.where(is_right, labels, (labels + 1) % classes)] = sure
    return predictions_of(labels, probabilities)


def pair(n: int, seed: int, distance: float = 1.5) -> tuple[Predictions, Predictions]:
    """Two networks of the same quality on the same images."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=n)
    labels[:2] = 0, 1
    hardness = random.normal(size=n)
    found = []
    for _ in range(2):
        scores = distance * (2 * labels - 1) + hardness + 0.7 * random.normal(size=n)
        found.append(predictions_of(labels, np.stack([1 / (1 + np.exp(scores)), 1 / (1 + np.exp(-scores))], axis=1)))
    return found[0], found[1]


def mean_of(values: Floats) -> Statistics:
    return lambda weights_NB: {"mean": values @ weights_NB / weights_NB.sum(axis=0)}


@pytest.mark.parametrize("strata", [None, np.repeat([0, 1, 2], [5, 20, 15])])
def test_every_draw_holds_as_many_images_of_each_stratum(strata: NDArray[np.int64] | None) -> None:
    weights = np.concatenate(list(draws(40, 500, np.random.default_rng(0), strata)), axis=1)
    assert weights.shape == (40, 500)
    groups = np.zeros(40, dtype=int) if strata is None else strata
    for group in np.unique(groups):
        assert (weights[groups == group].sum(axis=0) == (groups == group).sum()).all()
    assert weights.mean(axis=1) == pytest.approx(1, abs=0.25)
    # An image is drawn k times with the probability of the binomial distribution.
    assert (weights[groups == 0] == 0).mean() == pytest.approx(
        (1 - 1 / (groups == 0).sum()) ** (groups == 0).sum(), abs=0.02
    )


def test_draws_fit_in_memory_and_do_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draws(30, 64, np.random.default_rng(3))), axis=1)
    monkeypatch.setattr(module, "_MOST_CELLS", 300)
    parts = list(draws(30, 64, np.random.default_rng(3)))
    assert {part.shape[1] for part in parts} == {10, 4}
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("n", [25, 120])
def test_bca_agrees_with_scipy(n: int) -> None:
    values = np.random.default_rng(n).lognormal(sigma=1.0, size=n)
    found = bootstrap(mean_of(values), n, resamples=20_000)["mean"]
    oracle = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(1))
    low, high = oracle.confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.03 * (high - low))
    assert found.high == pytest.approx(high, abs=0.06 * (high - low))
    # The correction matters here: it is not the plain percentile interval.
    plain = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    assert found.high > plain.confidence_interval.high + 0.06 * (high - low)


def test_stratified_bca_agrees_with_scipys_of_several_samples() -> None:
    random = np.random.default_rng(5)
    one, other = random.lognormal(size=30), random.exponential(size=45)
    strata = np.repeat([0, 1], [30, 45])
    values = np.concatenate([one, other])

    def ratio(weights_NB: Floats) -> dict[str, Floats]:
        means = [values[strata == s] @ weights_NB[strata == s] / weights_NB[strata == s].sum(axis=0) for s in (0, 1)]
        return {"ratio": means[0] / means[1]}

    found = bootstrap(ratio, 75, strata=strata, resamples=20_000)["ratio"]
    oracle = stats.bootstrap(
        (one, other), lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis), method="BCa", n_resamples=20_000,
        vectorized=True, rng=np.random.default_rng(1),
    )  # fmt: skip
    low, high = oracle.confidence_interval
    assert found.low == pytest.approx(low, abs=0.04 * (high - low))
    assert found.high == pytest.approx(high, abs=0.06 * (high - low))


def test_leaving_groups_out_gives_nearly_the_same_as_leaving_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).lognormal(size=1_200)
    grouped = bootstrap(mean_of(values), 1_200, resamples=4_000)["mean"]
    monkeypatch.setattr(module, "_MOST_GROUPS", 1_200)
    alone = bootstrap(mean_of(values), 1_200, resamples=4_000)["mean"]
    width = alone.high - alone.low
    assert grouped.low == pytest.approx(alone.low, abs=0.02 * width)
    assert grouped.high == pytest.approx(alone.high, abs=0.02 * width)


@pytest.mark.parametrize("n", [1, 2, 18])
def test_no_mistake_is_no_certainty(n: int) -> None:
    found = metric_intervals(answers(np.ones(n, dtype=bool)), ("accuracy",))["accuracy"]
    assert found == wilson(n, n)
    assert found.low < 1


def test_where_all_draws_are_alike_the_closed_form_steps_in() -> None:
    predictions = answers(np.ones(30, dtype=bool), classes=3)
    found = metric_intervals(predictions)
    expected = evaluate(predictions).metrics
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_precision"):
        assert found[name] == expected[name]
        assert found[name].low < 0.95
    assert bootstrap(mean_of(np.full(4, 2.0)), 4)["mean"] == Interval(2.0, 2.0, 2.0, 4)


def test_intervals_are_ordered_hold_their_value_and_repeat() -> None:
    one, _ = pair(60, 3)
    found = metric_intervals(one, resamples=300)
    assert list(found) == list(METRICS) or set(found) == set(METRICS)
    expected = evaluate(one).metrics
    for name, interval in found.items():
        assert interval.low <= interval.value <= interval.high
        assert interval.value == pytest.approx(expected[name].value, rel=1e-5)
        assert interval.n == 60
    assert metric_intervals(one, resamples=300) == found
    assert metric_intervals(one, resamples=300, seed=1) != found


def test_drawn_intervals_are_as_wide_as_the_closed_form_ones_where_images_are_many() -> None:
    one, _ = pair(1_500, 4)
    found, expected = metric_intervals(one, stratified=False), evaluate(one).metrics
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auc", "loss", "brier"):
        width = expected[name].high - expected[name].low
        assert found[name].high - found[name].low == pytest.approx(width, rel=0.12), name


@pytest.mark.parametrize(("only_one", "only_other"), [(9, 3), (4, 0), (6, 0), (20, 20), (30, 12)])
def test_swapping_answers_is_mcnemars_test_for_the_accuracy(only_one: int, only_other: int) -> None:
    n = 80
    one = np.arange(n) < 30 + only_one
    other = (np.arange(n) < 30) | ((np.arange(n) >= 30 + only_one) & (np.arange(n) < 30 + only_one + only_other))
    p = swap_test(answers(one), answers(other), ("accuracy",), swaps=20_000)["accuracy"]
    expected = mcnemar(only_one, only_other)
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-4)


def test_swapping_answers_agrees_with_all_swaps_there_are() -> None:
    one, other = pair(10, 6)
    differences = image_values("loss", one) - image_values("loss", other)
    means = [abs(float(differences @ signs)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean(np.array(means) >= abs(differences.sum()) * (1 - 1e-12))
    p = swap_test(one, other, ("loss",), swaps=20_000)["loss"]
    assert p == pytest.approx(exact, abs=0.015)


def test_a_difference_of_nothing_is_certainly_possible() -> None:
    one, _ = pair(40, 2)
    found = paired_intervals(one, one, resamples=200, swaps=200)
    for name, (interval, p) in found.items():
        assert (interval.value, p) == (0.0, 1.0), name
        assert interval.low <= 0 <= interval.high
        if name in ("loss", "brier", "ece"):
            assert interval.high == 0
        else:
            assert 0.03 < interval.high < 0.1  # 1.96 * sqrt(2) / 42


def test_what_is_unseen_is_more_where_a_class_is_small() -> None:
    even, uneven = np.repeat([0, 1], [20, 20]), np.repeat([0, 1], [38, 2])
    assert unseen("balanced_accuracy", uneven) > 3 * unseen("balanced_accuracy", even)
    assert unseen("loss", even) == 0
    # Bonett and Price's interval of two networks that are both right on all of 18 images.
    both = np.ones((1, 18), dtype=bool)
    assert unseen("accuracy", np.zeros(18, dtype=int)) == pytest.approx(paired_difference(both, both)[0].high)


def test_a_draw_without_one_of_the_classes_has_no_ranking() -> None:
    """Two positives among 20: a draw misses both of them in one case of eight."""
    scores = np.linspace(0.1, 0.9, 20)
    labels = (np.arange(20) >= 18).astype(np.int64)
    labels[[3, 18]] = labels[[18, 3]]
    interval = metric_intervals(predictions_of(labels, np.stack([1 - scores, scores], axis=1)), ("auc",))["auc"]
    assert 0 <= interval.low < interval.value < interval.high <= 1


def test_four_images_that_tell_two_networks_apart_prove_nothing() -> None:
    """A bootstrap alone finds a difference here: it draws none of the four in fewer than 2.5 % of the draws."""
    one, other = answers(np.arange(100) < 94), answers(np.arange(100) < 90)
    interval, p = paired_intervals(one, other, ("balanced_accuracy",))["balanced_accuracy"]
    assert interval.value == pytest.approx(0.04)
    assert p > 0.1
    assert interval.low <= 0


def test_a_real_difference_is_found_with_the_right_sign() -> None:
    better, _ = pair(400, 1, distance=2.5)
    labels = better.labels
    blurred = predictions_of(labels, 0.5 + 0.3 * (better.probabilities.astype(float) - 0.5))
    random = np.random.default_rng(0)
    noisy = blurred.probabilities.astype(float) + random.normal(0, 0.2, size=(400, 1)) * np.array([1, -1])
    worse = predictions_of(labels, np.clip(noisy, 0.01, 0.99))
    found = paired_intervals(better, worse, resamples=500, swaps=500)
    for name in ("accuracy", "macro_f1", "auc"):
        interval, p = found[name]
        assert p < 0.01
        assert interval.low > 0
    interval, p = found["loss"]
    assert interval.high < 0
    assert p < 0.01
    turned = paired_intervals(worse, better, ("loss",), resamples=500, swaps=500)["loss"][0]
    assert turned.value == pytest.approx(-interval.value)


def test_predictions_of_other_images_are_a_mistake_of_the_caller() -> None:
    one, other = pair(10, 0)[0], pair(12, 0)[0]
    with pytest.raises(AssertionError):
        paired_intervals(one, other)
