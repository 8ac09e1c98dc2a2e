"""The metrics of :mod:`tintype.evaluation.metrics` for images that count more or less often, many weightings at once.

A bootstrap draws images again and again, and to draw an image twice is to give it the weight 2. So a thousand test
sets are one matrix of weights, and a metric of all of them a few products with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tintype.evaluation.calibration import BINS
from tintype.evaluation.metrics import SMALLEST_PROBABILITY
from tintype.records import Predictions

Floats = NDArray[np.float64]

Statistics = Callable[[Floats], dict[str, Floats]]
"""From the weights of N images in B draws, shape (N, B), to named figures of every draw, each of shape (B,)."""

MEANS = ("accuracy", "loss", "brier")
CLASS_AVERAGES = ("balanced_accuracy", "macro_precision", "macro_f1")
RANKINGS = ("auc", "average_precision")
METRICS = ("accuracy", *CLASS_AVERAGES, *RANKINGS, "loss", "brier", "ece")
LOWER_IS_BETTER = frozenset({"loss", "brier", "ece"})


def metrics_of(predictions: Predictions) -> tuple[str, ...]:
    """The metrics that are defined for these images: rankings need two classes, both with an image."""
    ranked = len(predictions.classes) == 2 and 0 < predictions.labels.sum() < len(predictions)
    return tuple(name for name in METRICS if ranked or name not in RANKINGS)


def weighted_metrics(predictions: Predictions, metrics: Collection[str]) -> Statistics:
    """A function that gives metrics for any weights of the images.

    Args:
        predictions: Of N images, all labelled.
        metrics: Some of :func:`metrics_of`.

    Raises:
        ValueError: A metric is unknown, or not defined for these images.
    """
    unknown = set(metrics) - set(metrics_of(predictions))
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]} is no metric of these images; choose from {metrics_of(predictions)}.")
    assert (predictions.labels >= 0).all()
    parts: list[Statistics] = []
    if means := {name: image_values(name, predictions) for name in MEANS if name in metrics}:
        parts.append(_means(means))
    if wanted := [name for name in CLASS_AVERAGES if name in metrics]:
        parts.append(_class_averages(predictions, wanted))
    if wanted := [name for name in RANKINGS if name in metrics]:
        parts.append(_rankings(predictions, wanted))
    if "ece" in metrics:
        parts.append(_calibration_error(predictions))
    return lambda weights_NB: {name: values for part in parts for name, values in part(weights_NB).items()}


def image_values(metric: str, predictions: Predictions) -> Floats:
    """What a metric that is a mean is the mean of, shape (N,).

    Args:
        metric: One of :data:`MEANS`.
        predictions: Of N images, all labelled.
    """
    probabilities_NK, labels = predictions.probabilities, predictions.labels
    if metric == "accuracy":
        return np.asarray(predictions.predicted == labels, dtype=np.float64)
    of_truth = np.take_along_axis(probabilities_NK, labels[:, None], axis=1)[:, 0].astype(np.float64)
    if metric == "loss":
        return np.asarray(-np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1)), dtype=np.float64)
    squares = np.square(probabilities_NK.astype(np.float64)).sum(axis=1)
    scale = 0.5 if probabilities_NK.shape[1] == 2 else 1.0
    return np.asarray(np.maximum(squares - 2 * of_truth + 1, 0) * scale)


def _means(values: dict[str, Floats]) -> Statistics:
    stacked_MN = np.stack(list(values.values()))

    def measure(weights_NB: Floats) -> dict[str, Floats]:
        means_MB = stacked_MN @ weights_NB / weights_NB.sum(axis=0)
        return dict(zip(values, means_MB, strict=True))

    return measure


def _class_averages(predictions: Predictions, metrics: Iterable[str]) -> Statistics:
    """Averages over the classes that occur in a draw, 0/0 counting as 0."""
    labels, predicted, classes = predictions.labels, predictions.predicted, len(predictions.classes)
    is_right = predicted == labels
    sum_labels, sum_predicted = _summing(labels, classes), _summing(predicted, classes)
    sum_hits = _summing(labels, classes, is_right.astype(np.float64))

    def measure(weights_NB: Floats) -> dict[str, Floats]:
        hits_KB, support_KB, predicted_KB = (table @ weights_NB for table in (sum_hits, sum_labels, sum_predicted))
        occurs_KB = (support_KB > 0) | (predicted_KB > 0)
        scores = {
            "balanced_accuracy": (_ratio(hits_KB, support_KB), support_KB > 0),
            "macro_precision": (_ratio(hits_KB, predicted_KB), occurs_KB),
            "macro_f1": (_ratio(2 * hits_KB, support_KB + predicted_KB), occurs_KB),
        }
        return {
            name: (values_KB * counts_KB).sum(axis=0) / counts_KB.sum(axis=0)
            for name in metrics
            for values_KB, counts_KB in [scores[name]]
        }

    return measure


def _rankings(predictions: Predictions, metrics: Collection[str]) -> Statistics:
    """Area under the ROC curve and average precision of the second of two classes; NaN without images of both.

    Equal scores count half in the area.
    """
    is_positive = predictions.labels == 1
    distinct, place = np.unique(-predictions.probabilities[:, 1], return_inverse=True)
    sum_positives = _summing(place, len(distinct), is_positive.astype(np.float64))
    sum_negatives = _summing(place, len(distinct), (~is_positive).astype(np.float64))

    def measure(weights_NB: Floats) -> dict[str, Floats]:
        positives_SB, negatives_SB = sum_positives @ weights_NB, sum_negatives @ weights_NB
        above_SB = np.cumsum(negatives_SB, axis=0)
        found = {}
        if "auc" in metrics:
            ahead_SB = above_SB[-1] - above_SB + negatives_SB / 2
            pairs = positives_SB.sum(axis=0) * above_SB[-1]
            found["auc"] = _defined((positives_SB * ahead_SB).sum(axis=0), pairs)
        if "average_precision" in metrics:
            hits_SB = np.cumsum(positives_SB, axis=0)
            precision_SB = _ratio(hits_SB, hits_SB + above_SB)
            found["average_precision"] = _defined((positives_SB * precision_SB).sum(axis=0), hits_SB[-1])
        return found

    return measure


def _calibration_error(predictions: Predictions) -> Statistics:
    """The expected calibration error over the bins of :func:`tintype.evaluation.calibration.measure_reliability`."""
    confidences = predictions.probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    # A bin's share of the images times its gap is the sum of (right or not - confidence), by the number of images.
    sum_gaps = _summing(bins, BINS, (predictions.predicted == predictions.labels) - confidences)
    return lambda weights_NB: {"ece": np.abs(sum_gaps @ weights_NB).sum(axis=0) / weights_NB.sum(axis=0)}


def _summing(groups: NDArray[np.integer], count: int, values: Floats | None = None) -> csr_array:
    """A matrix (count, N) that sums the images of each group, each times its value."""
    values = np.ones(len(groups)) if values is None else values
    return csr_array((values, (groups, np.arange(len(groups)))), shape=(count, len(groups)))


def _defined(numerators: Floats, denominators: Floats) -> Floats:
    """Quotients, NaN where the denominator is 0."""
    quotients = np.full_like(numerators, np.nan)
    np.divide(numerators, denominators, out=quotients, where=denominators > 0)
    return quotients


def _ratio(numerators: Floats, denominators: Floats) -> Floats:
    quotients = np.zeros_like(numerators)
    np.divide(numerators, denominators, out=quotients, where=denominators > 0)
    return quotients
