"""Whether a probability means what it says: reliability, expected calibration error, temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tintype.errors import DataError
from tintype.evaluation.calibration_interval import calibration_interval, plausible_errors
from tintype.evaluation.stats import Z, wilson_bounds
from tintype.evaluation.temperature import apply_temperature, log_probabilities
from tintype.records import Interval, Predictions

BINS = 15
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
CHUNK = 1 << 20


@dataclass(frozen=True)
class Reliability:
    """Images grouped by the confidence of their prediction; bins without images are left out.

    Attributes:
        confidences: Mean probability of the predicted class, per bin.
        correct: Number of right predictions, per bin.
        counts: Number of images, per bin, at least 1.
    """

    confidences: NDArray[np.float64]
    correct: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of confidence and accuracy, weighted by images."""
        return float(np.abs(self.correct / self.counts - self.confidences) @ self.counts / self.counts.sum())

    def curve(self) -> list[dict[str, float]]:
        """One plain row a bin: ``confidence``, ``accuracy`` with Wilson's ``low`` and ``high``, and ``n``."""
        accuracies = self.correct / self.counts
        low, high = wilson_bounds(accuracies, self.counts)
        columns = zip(self.confidences.tolist(), accuracies.tolist(), low.tolist(), high.tolist(), strict=True)
        return [
            {"confidence": confidence, "accuracy": accuracy, "low": below, "high": above, "n": n}
            for (confidence, accuracy, below, above), n in zip(columns, self.counts.tolist(), strict=True)
        ]

    def interval(self) -> Interval:
        """The expected calibration error with its interval, for the error of endlessly many images in these bins.

        The figure itself is too large on average, since noise in a bin adds to it whatever its sign. The interval
        (:func:`tintype.evaluation.calibration_interval.calibration_interval`) allows for that: it reaches down to 0
        unless a network whose every confidence is its chance of being right would rarely have so large a figure.
        """
        return calibration_interval(self.confidences, self.correct, self.counts)


def calibration_difference(one: Predictions, other: Predictions) -> Interval:
    """How much larger the expected calibration error of one network is than that of another on the same images.

    The interval is put together from those of the two errors (G. Y. Zou and A. Donner, "Construction of confidence
    limits about effect measures", Statistics in Medicine 27, 2008): the distances from each error to its ends are added
    as errors are, less what the two have in common, the correlation of the images' parts in the two figures. It starts
    from the errors without the noise that makes every such figure too large, which drawing the images again would take
    for calibration error; so the interval need not lie evenly about the difference of the figures.

    Args:
        one: Predictions of labelled images.
        other: Predictions of the same images in the same order.
    """
    if np.array_equal(one.probabilities, other.probabilities):
        return Interval(0.0, 0.0, 0.0, len(one))
    (first, start, parts_N), (second, other_start, other_parts_N) = (_error_and_parts(item) for item in (one, other))
    spread = float(np.linalg.norm(parts_N) * np.linalg.norm(other_parts_N))
    alike = min(1.0, float(parts_N @ other_parts_N) / spread) if spread > 0 else 0.0

    def apart(up: float, down: float) -> float:
        return math.sqrt(max(up**2 + down**2 - 2 * alike * up * down, 0.0))

    value, middle = first.value - second.value, start - other_start
    low = middle - apart(start - first.low, second.high - other_start)
    high = middle + apart(first.high - start, other_start - second.low)
    return Interval(value, max(-1.0, min(low, value)), min(1.0, max(high, value)), len(one))


def _error_and_parts(predictions: Predictions) -> tuple[Interval, float, NDArray[np.float64]]:
    """The calibration error, the same without noise, and what each image adds to it beyond the mean, shape (N,)."""
    confidences = predictions.probabilities.max(axis=1).astype(np.float64)
    is_correct = predictions.predicted == predictions.labels
    bins, gaps = _bins(confidences), is_correct - confidences
    signs = np.sign(np.bincount(bins, weights=gaps, minlength=BINS))
    parts_N = signs[bins] * gaps
    reliability = measure_reliability(confidences, is_correct)
    error, truth = plausible_errors(reliability.confidences, reliability.correct, reliability.counts)
    return error, min(max(truth, error.low), error.high), parts_N - parts_N.mean()


def _bins(confidences: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of each confidence; the bins have equal width, each open below and closed above."""
    return np.clip(np.ceil(confidences.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)


def measure_reliability(confidences: NDArray[np.floating], is_correct: NDArray[np.bool_]) -> Reliability:
    """Group images into 15 bins of equal width, each open below and closed above.

    C. Guo and others, "On calibration of modern neural networks", ICML 2017.

    Args:
        confidences: Probability of the predicted class, shape (N,), in (0, 1].
        is_correct: Whether the predicted class is the true one, shape (N,).
    """
    bins = _bins(confidences)
    counts = np.bincount(bins, minlength=BINS)
    used = counts > 0
    return Reliability(
        confidences=np.bincount(bins, weights=confidences, minlength=BINS)[used] / counts[used],
        correct=np.bincount(bins[is_correct], minlength=BINS)[used],
        counts=counts[used],
    )


def fit_temperature(predictions: Predictions) -> Interval:
    """The temperature that logits are divided by so that probabilities become honest; above 1: overconfident.

    It minimises the cross-entropy (Guo and others, ICML 2017) of the N labelled images and of two more, spread
    evenly over them: one whose most probable class is right, one whose second most probable class is. Without these,
    N images without a mistake would make the network certain of everything; with them its confidence stays near
    (N + 1) / (N + 2) (the targets of J. Platt, "Probabilistic outputs for support vector machines", 1999). Fit it on
    validation images, never on the ones it is judged by.

    Returns:
        The temperature between 0.01 and 100, its interval from the observed information on the scale of its
        logarithm, and the number of labelled images. Where the images say nothing about it, because all classes are
        always equally probable, it is 1.

    Raises:
        DataError: No image has a label.
    """
    known = predictions.labels >= 0
    n = int(known.sum())
    if n == 0:
        raise DataError(
            f"none of the {len(predictions)} {predictions.split} images has a label, so no temperature can be fitted."
            " Give labelled validation images."
        )
    logits_NK = log_probabilities(predictions.probabilities[known])
    true = float(np.take_along_axis(logits_NK, predictions.labels[known][:, None], axis=1).sum(dtype=np.float64))
    second = float(np.partition(logits_NK, -2, axis=1)[:, -2].sum(dtype=np.float64)) if logits_NK.shape[1] > 1 else 0.0
    if not logits_NK.any():
        return Interval(1.0, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, n)

    lowest, highest = -math.log(HIGHEST_TEMPERATURE), -math.log(LOWEST_TEMPERATURE)

    def slope(log_scale: float) -> tuple[float, float]:
        """Derivative of the total cross-entropy by the factor of the logits, which only ever rises, and how fast."""
        mean, variance = _moments(logits_NK, math.exp(log_scale))
        return (1 + 2 / n) * mean - true - second / n, (1 + 2 / n) * variance * math.exp(log_scale)

    log_scale = _root(slope, lowest, highest)
    scale = math.exp(log_scale)
    information = (1 + 2 / n) * _moments(logits_NK, scale)[1] * scale * scale
    reach = min(Z / math.sqrt(information), highest - lowest) if information > 0 else highest - lowest
    return Interval(
        value=math.exp(-log_scale),
        low=math.exp(max(-log_scale - reach, -highest)),
        high=math.exp(min(-log_scale + reach, -lowest)),
        n=n,
    )


def _root(rising: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Where a rising function is 0 between two places; the nearer of them where it is 0 outside.

    Newton's steps, halving where one leaves what is left. ``scipy.optimize`` does it too, and takes longer to import
    (a quarter of a second) than all figures of a run take to compute.

    Args:
        rising: From a place to value and derivative.
        low: The lower end.
        high: The upper end.
    """
    place = min(max(0.0, low), high)
    for _ in range(100):
        value, derivative = rising(place)
        low, high = (low, place) if value > 0 else (place, high)
        following = place - value / derivative if derivative > 0 else math.inf
        if not low <= following <= high:
            following = (low + high) / 2
        if abs(following - place) < 1e-7:
            return following
        place = following
    return place


def calibrated(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with :func:`apply_temperature` on their probabilities."""
    return replace(predictions, probabilities=apply_temperature(predictions.probabilities, temperature))


def _moments(logits_NK: NDArray[np.float32], scale: float) -> tuple[float, float]:
    """Means and variances of the logits under the probabilities they give at ``scale``, summed over the images."""
    mean = variance = 0.0
    rows = max(1, CHUNK // logits_NK.shape[1])
    for start in range(0, len(logits_NK), rows):
        logits = logits_NK[start : start + rows]
        weights = np.exp(logits * np.float32(scale))
        total = weights.sum(axis=1, dtype=np.float64)
        first = np.einsum("nk,nk->n", weights, logits) / total
        second = np.einsum("nk,nk,nk->n", weights, logits, logits) / total
        mean += float(first.sum())
        variance += float(np.maximum(second - first**2, 0).sum())
    return mean, variance
