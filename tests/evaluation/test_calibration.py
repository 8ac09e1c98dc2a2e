from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from tintype.errors import DataError
from tintype.evaluation.calibration import (
    calibration_difference,
    fit_temperature,
    measure_reliability,
)
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.temperature import apply_temperature
from tintype.records import Predictions


def predictions_of(labels: np.ndarray, probabilities_NK: np.ndarray) -> Predictions:
    return Predictions(
        split="validation",
        classes=tuple(f"class {number}" for number in range(probabilities_NK.shape[1])),
        paths=tuple(str(number) for number in range(len(labels))),
        labels=labels.astype(np.int64),
        probabilities=probabilities_NK.astype(np.float32),
    )


def draw_predictions(n: int, classes: int, temperature: float, seed: int) -> tuple[Predictions, np.ndarray]:
    """Predictions that become honest at ``temperature``, and their logits."""
    random = np.random.default_rng(seed)
    logits_NK = 2.5 * random.normal(size=(n, classes))
    honest_NK = softmax(logits_NK / temperature, axis=1)
    labels = (honest_NK.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    return predictions_of(labels, softmax(logits_NK, axis=1)), logits_NK


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_recovered(classes: int, temperature: float) -> None:
    predictions, _ = draw_predictions(20_000, classes, temperature, seed=1)
    fitted = fit_temperature(predictions)
    assert fitted.value == pytest.approx(temperature, rel=0.06)
    assert fitted.low < temperature < fitted.high
    assert fitted.high / fitted.low < 1.2
    assert fitted.n == 20_000


def test_the_temperature_minimises_the_cross_entropy() -> None:
    predictions, logits_NK = draw_predictions(5_000, 7, 1.7, seed=2)

    def loss(temperature: float) -> float:
        rows = np.arange(len(predictions))
        return -float(log_softmax(logits_NK / temperature, axis=1)[rows, predictions.labels].mean())

    oracle = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6}).x
    assert fit_temperature(predictions).value == pytest.approx(oracle, rel=2e-3)


def test_the_temperature_interval_covers() -> None:
    covered = 0
    for seed in range(300):
        fitted = fit_temperature(draw_predictions(150, 4, 2.0, seed)[0])
        covered += fitted.low <= 2.0 <= fitted.high
    assert 0.91 < covered / 300 < 0.99


@pytest.mark.parametrize("n", [1, 20, 1_000])
def test_without_a_mistake_confidence_stays_what_n_images_can_carry(n: int) -> None:
    probabilities = np.tile([0.999, 0.001], (n, 1))
    predictions = predictions_of(np.zeros(n), probabilities)
    fitted = fit_temperature(predictions)
    confident = apply_temperature(predictions.probabilities, fitted.value)[0, 0]
    assert confident == pytest.approx((n + 1) / (n + 2), rel=1e-5)


def test_a_network_that_is_always_wrong_is_told_to_say_nothing() -> None:
    predictions = predictions_of(np.ones(50), np.tile([0.99, 0.01], (50, 1)))
    fitted = fit_temperature(predictions)
    assert fitted.value == pytest.approx(100)
    assert fitted.low <= fitted.value <= fitted.high * (1 + 1e-12)


def test_equal_probabilities_leave_the_temperature_open() -> None:
    fitted = fit_temperature(predictions_of(np.array([0, 1, 1]), np.full((3, 2), 0.5)))
    assert (fitted.value, fitted.low, fitted.high) == (1.0, 0.01, 100.0)


def test_probabilities_of_exactly_zero_and_one_are_finite() -> None:
    predictions = predictions_of(np.array([0, 1, 1, 0]), np.array([[1, 0], [0, 1], [1, 0], [1, 0]]))
    fitted = fit_temperature(predictions)
    assert np.isfinite([fitted.value, fitted.low, fitted.high]).all()
    assert fitted.value > 10
    assert np.isfinite(apply_temperature(predictions.probabilities, fitted.value)).all()


def test_images_without_a_label_do_not_count() -> None:
    predictions, _ = draw_predictions(400, 3, 2.0, seed=3)
    hidden = np.where(np.arange(400) % 4 == 0, -1, predictions.labels)
    kept = hidden >= 0
    fitted = fit_temperature(predictions_of(hidden, predictions.probabilities))
    assert fitted == fit_temperature(predictions_of(hidden[kept], predictions.probabilities[kept]))
    with pytest.raises(DataError, match="none of the 400 validation images has a label"):
        fit_temperature(predictions_of(np.full(400, -1), predictions.probabilities))


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0.3, 5))
def test_applying_a_temperature_divides_the_logits(seed: int, classes: int, temperature: float) -> None:
    logits_NK = 2 * np.random.default_rng(seed).normal(size=(5, classes))
    probabilities_NK = softmax(logits_NK, axis=1).astype(np.float32)
    scaled_NK = apply_temperature(probabilities_NK, temperature)
    assert scaled_NK.dtype == np.float32
    np.testing.assert_allclose(scaled_NK, softmax(logits_NK / temperature, axis=1), atol=2e-5)
    np.testing.assert_allclose(apply_temperature(probabilities_NK, 1.0), probabilities_NK, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        apply_temperature(np.full((1, 2), 0.5), temperature)


def test_reliability_bins_are_closed_above() -> None:
    confidences = np.array([0.5, 8 / 15, 8 / 15 + 1e-9, 1.0, 1.0], dtype=np.float64)
    reliability = measure_reliability(confidences, np.array([True, False, True, True, False]))
    assert reliability.counts.tolist() == [2, 1, 2]
    assert reliability.correct.tolist() == [1, 1, 1]
    rows = reliability.curve()
    assert [row["n"] for row in rows] == [2, 1, 2]
    assert rows[2]["confidence"] == 1.0
    assert rows[2]["accuracy"] == 0.5
    assert 0 < rows[2]["low"] < 0.5 < rows[2]["high"] < 1


@pytest.mark.parametrize("n", [60, 600])
def test_honest_probabilities_are_not_called_dishonest(n: int) -> None:
    """The figure itself is always above 0; only its interval tells that this is noise."""
    intervals = [evaluate(draw_predictions(n, 3, 1.0, seed)[0]).metrics["ece"] for seed in range(150)]
    assert min(interval.value for interval in intervals) > 0
    assert np.mean([interval.low > 0 for interval in intervals]) < 0.1


def test_the_calibration_error_interval_covers() -> None:
    true = evaluate(draw_predictions(200_000, 3, 2.5, seed=0)[0]).metrics["ece"].value
    assert true > 0.1
    intervals = [evaluate(draw_predictions(300, 3, 2.5, seed)[0]).metrics["ece"] for seed in range(1, 151)]
    assert 0.9 < np.mean([interval.low <= true <= interval.high for interval in intervals]) <= 1
    assert np.mean([interval.low > 0 for interval in intervals]) > 0.9


def test_naive_bayes_on_digits_is_overconfident_and_can_be_mended() -> None:
    images, labels = load_digits(return_X_y=True)
    model = GaussianNB(var_smoothing=1e-3).fit(images[:800], labels[:800])
    probabilities = model.predict_proba(images)
    temperature = fit_temperature(predictions_of(labels[800:1300], probabilities[800:1300]))
    assert temperature.low > 2
    before = evaluate(predictions_of(labels[1300:], probabilities[1300:]))
    mended = apply_temperature(probabilities[1300:].astype(np.float32), temperature.value)
    after = evaluate(predictions_of(labels[1300:], mended))
    assert after.metrics["ece"].high < before.metrics["ece"].low
    assert after.loss.high < before.loss.low
    assert after.accuracy == before.accuracy


def test_the_interval_of_a_difference_of_calibration_errors_covers_where_one_network_is_honest() -> None:
    # A bootstrap of the images held these in 80 to 90 %: noise makes the honest network's figure too large.
    random, classes, factors = np.random.default_rng(4), 5, (1.0, 2.0)
    shared = 2.0 * random.normal(size=(200_000, classes))

    def answers(logits_NK: np.ndarray) -> list[Predictions]:
        honest_NK = softmax(logits_NK, axis=1)
        labels = (honest_NK.cumsum(axis=1) > random.random((len(logits_NK), 1))).argmax(axis=1)
        return [predictions_of(labels, softmax(factor * logits_NK, axis=1)) for factor in factors]

    large = [evaluate(item).metrics["ece"].value for item in answers(shared)]
    truth, held = large[0] - large[1], []
    for n in (60, 600):
        for start in range(0, 150 * n, n):
            interval = calibration_difference(*answers(shared[start : start + n]))
            held.append(interval.low <= truth <= interval.high)
    assert np.mean(held) > 0.93  # by chance once in 20 such tests were it 0.95, never were it 0.85


def test_equal_answers_have_equal_calibration_errors() -> None:
    one, _ = draw_predictions(300, 3, 1.5, seed=5)
    interval = calibration_difference(one, one)
    assert (interval.low, interval.value, interval.high) == (0.0, 0.0, 0.0)
    # A network that is always sure and never right is wrong by 1 in every confidence, one that is always right by 0.
    labels = np.arange(400) % 2
    right, wrong = (predictions_of(labels, np.eye(2)[answers]) for answers in (labels, 1 - labels))
    far = calibration_difference(wrong, right)
    assert far.value == pytest.approx(1.0)
    assert 0.95 < far.low < 1.0
