"""Metrics of weighted images against the plain ones of the same images, repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.evaluation.metrics import evaluate
from tintype.evaluation.weighted import METRICS, image_values, metrics_of, weighted_metrics
from tintype.records import Predictions


def draw_predictions(n: int, classes: int, seed: int) -> Predictions:
    """Networks that are often right, with coarse probabilities, so that scores tie."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    labels[:2] = 0, 1
    scores = random.integers(0, 4, size=(n, classes)) + 2.0 * (np.arange(classes) == labels[:, None])
    probabilities = (scores + 1) / (scores + 1).sum(axis=1, keepdims=True)
    names = tuple(f"class {number}" for number in range(classes))
    return Predictions("test", names, tuple(map(str, range(n))), labels, probabilities.astype(np.float32))


@given(st.integers(3, 40), st.integers(2, 4), st.integers(0, 2**20))
def test_weights_of_whole_numbers_are_images_repeated(n: int, classes: int, seed: int) -> None:
    predictions = draw_predictions(n, classes, seed)
    counts_NB = np.random.default_rng(seed).integers(0, 4, size=(n, 3))
    counts_NB[:2] += 1
    found = weighted_metrics(predictions, metrics_of(predictions))(counts_NB.astype(np.float64))
    for column in range(3):
        rows = np.repeat(np.arange(n), counts_NB[:, column])
        repeated = Predictions(
            "test",
            predictions.classes,
            tuple(map(str, rows)),
            predictions.labels[rows],
            predictions.probabilities[rows],
        )
        expected = evaluate(repeated).metrics
        for name, values in found.items():
            assert values[column] == pytest.approx(expected[name].value, rel=1e-5, abs=1e-6), name


def test_every_metric_is_there_where_it_is_defined() -> None:
    assert metrics_of(draw_predictions(20, 2, 0)) == METRICS
    assert set(METRICS) - set(metrics_of(draw_predictions(20, 3, 0))) == {"auc", "average_precision"}
    two = draw_predictions(20, 2, 0)
    one_sided = Predictions("test", two.classes, two.paths, np.zeros(20, dtype=np.int64), two.probabilities)
    assert "auc" not in metrics_of(one_sided)
    with pytest.raises(ValueError, match="auc is no metric of these images"):
        weighted_metrics(one_sided, ("accuracy", "auc"))


def test_only_what_is_asked_for_is_given() -> None:
    predictions = draw_predictions(10, 2, 1)
    for name in METRICS:
        assert list(weighted_metrics(predictions, (name,))(np.ones((10, 2)))) == [name]


@pytest.mark.parametrize("metric", ["accuracy", "loss", "brier"])
def test_means_are_means_of_image_values(metric: str) -> None:
    predictions = draw_predictions(50, 3, 2)
    assert image_values(metric, predictions).mean() == pytest.approx(
        evaluate(predictions).metrics[metric].value, rel=1e-6
    )


def test_a_common_factor_of_the_weights_changes_nothing() -> None:
    predictions = draw_predictions(30, 2, 3)
    weights_NB = np.random.default_rng(0).uniform(0.1, 2, size=(30, 4))
    statistics = weighted_metrics(predictions, METRICS)
    for name, values in statistics(3 * weights_NB).items():
        np.testing.assert_allclose(values, statistics(weights_NB)[name])
