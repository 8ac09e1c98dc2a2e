"""The threshold for unsure answers: against brute force, and by simulation what it is worth on other images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tintype.evaluation.abstention import CURVE_POINTS, choose_threshold, judge_threshold
from tintype.evaluation.stats import wilson
from tintype.records import Predictions


def predictions_of(
    confidences: NDArray[np.float64], is_wrong: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
) -> Predictions:
    """Two classes; the first is always answered."""
    probabilities = np.stack([confidences, 1 - confidences], axis=1).astype(np.float32)
    labels = is_wrong.astype(np.int64)
    if known is not None:
        labels = np.where(known, labels, -1)
    paths = tuple(str(number) for number in range(len(labels)))
    return Predictions("validation", ("a", "b"), paths, labels, probabilities)


def draw(random: np.random.Generator, n: int, shape: float = 3.0) -> Predictions:
    """Calibrated: an answer is wrong as often as its confidence says."""
    confidences = 0.5 + 0.5 * random.beta(shape, 1, n)
    return predictions_of(confidences, random.random(n) > confidences)


@given(
    st.lists(st.tuples(st.integers(52, 99), st.booleans()), min_size=50, max_size=120),
    st.sampled_from([0.04, 0.05, 0.1, 0.3]),
)
def test_it_answers_as_many_as_brute_force_finds(rows: list[tuple[int, bool]], wanted: float) -> None:
    confidences = np.array([value / 100 for value, _ in rows])
    is_wrong = np.array([wrong for _, wrong in rows])
    predictions = predictions_of(confidences, is_wrong)
    sure = predictions.probabilities.max(axis=1)
    most = 0
    for threshold in set(sure.tolist()):
        answered = int((sure >= threshold).sum())
        mistakes = int(is_wrong[sure >= threshold].sum())
        if (mistakes + 1) / (answered + 1) <= wanted and answered * wanted >= 2:
            most = max(most, answered)
    found = choose_threshold(predictions, wanted)
    if most == 0:
        assert found.threshold == 0
        assert found.reason
        assert found.error_rate.n == len(rows)
    else:
        assert found.reason == ""
        assert found.error_rate.n == most == (sure >= found.threshold).sum()
        assert found.error_rate == wilson(int(is_wrong[sure >= found.threshold].sum()), most)
        assert found.coverage == wilson(most, len(rows))
        assert (found.threshold == 0) == (most == len(rows))


@pytest.mark.parametrize(("n", "wanted"), [(185, 0.05), (185, 0.1), (1000, 0.02), (1000, 0.05)])
def test_mistakes_among_the_answered_are_on_average_as_rare_as_wanted(n: int, wanted: float) -> None:
    random = np.random.default_rng(5)
    elsewhere = draw(random, 200_000)
    sure = np.sort(elsewhere.probabilities.max(axis=1))[::-1]
    true_rates = np.cumsum(1 - sure.astype(np.float64)) / np.arange(1, len(sure) + 1)
    rates, coverages = [], []
    for _ in range(300):
        found = choose_threshold(draw(random, n), wanted)
        if not found.reason:
            answered = int(np.searchsorted(-sure, -found.threshold, side="right"))
            rates.append(true_rates[answered - 1])
            coverages.append(answered / len(sure))
    assert len(rates) > 200
    # The choice itself is noisy; what is promised is the mean.
    assert np.mean(rates) <= wanted * 1.02 + 2 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) > 0.8 * wanted  # and no more is withheld than need be
    best = int((true_rates <= wanted).sum()) / len(sure)
    assert np.mean(coverages) > 0.75 * best


def test_too_few_images_choose_nothing_and_say_how_many_are_needed() -> None:
    random = np.random.default_rng(0)
    few = choose_threshold(draw(random, 49), 0.05)
    assert (few.threshold, few.n) == (0.0, 49)
    assert few.reason == "49 labelled validation images are too few to choose one; 50 are needed"
    strict = choose_threshold(draw(random, 185), 0.01)
    assert strict.threshold == 0
    assert "200 are needed" in strict.reason


def test_a_rate_that_no_threshold_reaches_is_said_and_nothing_is_withheld() -> None:
    random = np.random.default_rng(0)
    guessing = predictions_of(random.uniform(0.5, 1, 300), random.random(300) > 0.5)
    found = choose_threshold(guessing, 0.05)
    assert (found.threshold, found.coverage.value) == (0.0, 1.0)
    assert "none keeps mistakes that rare" in found.reason


def test_a_network_that_is_good_enough_answers_everything() -> None:
    found = choose_threshold(predictions_of(np.linspace(0.6, 1, 200), np.zeros(200, np.bool_)), 0.05)
    assert (found.threshold, found.reason, found.error_rate.value) == (0.0, "", 0.0)


def test_images_without_a_label_do_not_count() -> None:
    random = np.random.default_rng(1)
    confidences, is_wrong = random.uniform(0.5, 1, 400), random.random(400) > 0.96
    known = np.arange(400) % 2 == 0
    found = choose_threshold(predictions_of(confidences, is_wrong, known), 0.02)
    assert found == choose_threshold(predictions_of(confidences[known], is_wrong[known]), 0.02)
    assert found.n == 200


def test_the_same_threshold_is_judged_on_other_images() -> None:
    random = np.random.default_rng(3)
    chosen = choose_threshold(draw(random, 400), 0.05)
    test = draw(random, 1000)
    judged = judge_threshold(chosen, test)
    sure = test.probabilities.max(axis=1) >= chosen.threshold
    wrong = test.predicted != test.labels
    assert 0 < sure.mean() < 1
    assert judged.threshold == chosen.threshold
    assert judged.wanted_error_rate == 0.05
    assert judged.coverage == wilson(int(sure.sum()), 1000)
    assert judged.error_rate == wilson(int(wrong[sure].sum()), int(sure.sum()))


def test_a_threshold_above_every_confidence_answers_nothing() -> None:
    chosen = choose_threshold(draw(np.random.default_rng(3), 400, shape=8.0), 0.05)
    unsure = predictions_of(np.full(60, 0.5001), np.zeros(60, np.bool_))
    judged = judge_threshold(chosen, unsure)
    assert (judged.coverage.value, judged.error_rate.n, judged.error_rate.high) == (0.0, 0, 1.0)
    nothing = judge_threshold(chosen, predictions_of(np.zeros(0), np.zeros(0, np.bool_)))
    assert (nothing.n, nothing.curve) == (0, ())


def test_the_curve_runs_from_the_surest_to_all_and_stays_short() -> None:
    random = np.random.default_rng(3)
    test = draw(random, 5000)
    curve = choose_threshold(test, 0.05).curve
    assert len(curve) == CURVE_POINTS
    coverages = [point.coverage for point in curve]
    assert coverages == sorted(coverages)
    assert curve[-1].coverage == 1.0
    wrong, sure = test.predicted != test.labels, test.probabilities.max(axis=1)
    for point in curve[:: CURVE_POINTS // 10]:
        assert point.error_rate == pytest.approx(wrong[sure >= point.threshold].mean())
        assert point.coverage == pytest.approx((sure >= point.threshold).mean())


@pytest.mark.parametrize("wanted", [0.0, 1.0, -0.1])
def test_a_wanted_rate_that_is_none_is_refused(wanted: float) -> None:
    with pytest.raises(ValueError, match="error_rate"):
        choose_threshold(draw(np.random.default_rng(0), 60), wanted)
