"""Intervals by drawing the test images again, and a test of a difference by swapping answers.

The interval is Efron's BCa interval: the percentiles of the drawn figures, corrected for their bias and for a
spread that changes with the figure. Draws can be stratified: of each class as many images as there are. For one figure
that is right only where a test set was put together with so many images of each class; where the classes came as they
came, a stratified interval is too narrow. Differences of two networks hardly vary with the classes' shares, and are
drawn so that no class is missing.

What a bootstrap cannot see: images that it has not drawn. Where every draw gives the same figure (18 of 18 right) it
would answer [1, 1]. One figure then has its closed-form interval (:mod:`tintype.evaluation.metrics`). The interval of a
difference is widened by what no draw can show (:func:`unseen`), and the swapping test, which holds for any number of
images, has the last word (:func:`paired_intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from tintype.evaluation.calibration import calibration_difference
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import UPPER_QUANTILE, Z
from tintype.evaluation.weighted import Floats, Statistics, metrics_of, weighted_metrics
from tintype.records import Interval, Predictions

RESAMPLES = 2_000
SWAPS = 2_000
_MOST_CELLS = 1 << 22  # weights that are held at a time
_MOST_GROUPS = 400  # of images that are left out together
_OF_PROBABILITIES = ("loss", "brier", "ece")
_TOLERANCE = 1e-9  # relative; sums in another order differ by less


def bootstrap(
    statistics: Statistics,
    n: int,
    *,
    strata: NDArray[np.integer] | None = None,
    fallback: Callable[[str, float], Interval] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """BCa intervals of figures of n images.

    B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987). The acceleration comes from leaving images out,
    many of them in groups: its expectation is the same, and its noise far below that of the draws.

    Args:
        statistics: From weights of shape (n, B) to figures of shape (B,).
        n: Number of images.
        strata: Group of each image, shape (n,); each draw holds as many of each as there are. None: all are one.
        fallback: From the name of a figure and its value to its interval where every draw gives the same; without it
            the interval is that value alone.
        resamples: How often to draw.
        seed: Of the draws.
    """
    values = {name: float(figure[0]) for name, figure in statistics(np.ones((n, 1))).items()}
    random = np.random.default_rng(seed)
    drawn = _collect(statistics, draws(n, resamples, random, strata))
    groups = _groups(n, random, strata)
    without = _collect(statistics, _left_out(n, groups))
    stratum = np.array([number for number, _, _ in groups], dtype=np.int64)
    found = {}
    for name, value in values.items():
        defined = drawn[name][np.isfinite(drawn[name])]
        if np.ptp(defined) <= _TOLERANCE * abs(value):
            found[name] = fallback(name, value) if fallback else Interval(value, value, value, n)
        else:
            low, high = bca(value, defined, _acceleration(value - without.get(name, np.empty(0)), stratum))
            found[name] = Interval(value, min(low, value), max(high, value), n)
    return found


def metric_intervals(
    predictions: Predictions,
    metrics: tuple[str, ...] | None = None,
    *,
    stratified: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap intervals of metrics; those of :func:`tintype.evaluation.metrics.evaluate` where all draws are alike.

    Args:
        predictions: Of labelled images.
        metrics: Some of :func:`tintype.evaluation.weighted.metrics_of`; None for all of them.
        stratified: Draw as many images of each class as there are: the test set was put together that way.
        resamples: How often to draw.
        seed: Of the draws.
    """
    figures = weighted_metrics(predictions, metrics_of(predictions) if metrics is None else metrics)
    return bootstrap(
        figures, len(predictions), strata=predictions.labels if stratified else None,
        fallback=lambda name, _: evaluate(predictions).metrics[name], resamples=resamples, seed=seed,
    )  # fmt: skip


def paired_intervals(
    one: Predictions,
    other: Predictions,
    metrics: tuple[str, ...] | None = None,
    *,
    resamples: int = RESAMPLES,
    swaps: int = SWAPS,
    seed: int = 0,
) -> dict[str, tuple[Interval, float]]:
    """How much the metrics of one network are above those of another on the same images, and how surely.

    Each draw of images is the same for both; its interval is widened by :func:`unseen`, in quadrature. That of the
    calibration error is not drawn (:func:`tintype.evaluation.calibration.calibration_difference`). The p-value comes
    from swapping the two networks' answers, image by image, by the toss of a coin: R. A. Fisher's test of paired
    samples ("The design of experiments", 1935), which for the accuracy is McNemar's. An interval that leaves 0 out
    where the test finds no difference at 5 % is stretched to 0.

    Args:
        one: Predictions of labelled images.
        other: Predictions of the same images in the same order.
        metrics: Some of :func:`tintype.evaluation.weighted.metrics_of`; None for all of them.
        resamples: How often to draw.
        swaps: How often to swap.
        seed: Of draws and swaps.

    Returns:
        Metric to the difference, one minus other, with its 95 % interval, and the two-sided p-value.
    """
    assert one.paths == other.paths
    assert (one.labels == other.labels).all()
    wanted = metrics_of(one) if metrics is None else metrics
    drawn = tuple(name for name in wanted if name != "ece")
    ours, theirs = weighted_metrics(one, drawn), weighted_metrics(other, drawn)

    def difference(weights_NB: Floats) -> dict[str, Floats]:
        subtracted = theirs(weights_NB)
        return {name: values - subtracted[name] for name, values in ours(weights_NB).items()}

    intervals: dict[str, Interval] = {}
    if drawn:
        intervals |= bootstrap(difference, len(one), strata=one.labels, resamples=resamples, seed=seed)
    if "ece" in wanted:
        intervals["ece"] = calibration_difference(one, other)
    p_values = swap_test(one, other, wanted, swaps=swaps, seed=seed)
    return {
        name: (_reconciled(_widened(intervals[name], unseen(name, one.labels)), p_values[name]), p_values[name])
        for name in wanted
        if name in intervals
    }


def swap_test(
    one: Predictions, other: Predictions, metrics: tuple[str, ...], *, swaps: int = SWAPS, seed: int = 0
) -> dict[str, float]:
    """Two-sided p-values of the hypothesis that it makes no difference which network gave which answer.

    The observed answers count as one of the swaps, so that p is never 0 (B. Phipson and G. K. Smyth, "Permutation
    p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9, 2010).

    Args:
        one: Predictions of labelled images.
        other: Predictions of the same images in the same order.
        metrics: Some of :func:`tintype.evaluation.weighted.metrics_of`.
        swaps: How often to swap.
        seed: Of the swaps.
    """
    n = len(one)
    both = Predictions(
        one.split, one.classes, one.paths + other.paths, np.concatenate([one.labels, other.labels]),
        np.concatenate([one.probabilities, other.probabilities]),
    )  # fmt: skip
    statistics = weighted_metrics(both, metrics)

    def differences(is_swapped_NB: Floats) -> dict[str, Floats]:
        kept_NB = 1 - is_swapped_NB
        first = statistics(np.concatenate([kept_NB, is_swapped_NB]))
        second = statistics(np.concatenate([is_swapped_NB, kept_NB]))
        return {name: values - second[name] for name, values in first.items()}

    observed = differences(np.zeros((n, 1)))
    random = np.random.default_rng(seed)
    coins = (random.integers(2, size=(n, count)).astype(np.float64) for count in _chunks(2 * n, swaps))
    found = _collect(differences, coins)
    as_far = {
        name: int((np.abs(values) >= abs(observed[name][0]) * (1 - _TOLERANCE) - _TOLERANCE**2).sum())
        for name, values in found.items()
    }
    return {name: (1 + count) / (1 + swaps) for name, count in as_far.items()}


def bca(value: float, drawn: Floats, acceleration: float) -> tuple[float, float]:
    """Ends of the bias-corrected and accelerated interval.

    Args:
        value: The figure.
        drawn: The figure in every draw, shape (B,), not all equal.
        acceleration: How fast the figure's standard error changes with it, on a normal scale.
    """
    below = (np.count_nonzero(drawn < value) + np.count_nonzero(drawn <= value)) / 2
    # A figure at the edge of all draws is no surer than the draws are many.
    bias = float(ndtri(min(max(below, 0.5), len(drawn) - 0.5) / len(drawn)))
    places = []
    for quantile in (-Z, Z):
        shifted = bias + quantile
        places.append(float(ndtr(bias + shifted / max(1 - acceleration * shifted, 1e-6))))
    low, high = np.quantile(drawn, places)
    return float(low), float(high)


def unseen(metric: str, labels: NDArray[np.integer]) -> float:
    """By how much two networks can differ in a figure although no image here tells them apart.

    Half the width of Bonett and Price's interval where no image does
    (:func:`tintype.evaluation.stats.paired_difference`): as if two more images had been seen, one that only the one
    network gets right and one that only the other does. Images are counted by class as an average over
    classes counts them. Figures of the probabilities (loss, Brier score, calibration error) differ on every image, so
    that nothing is unseen: 0.

    Args:
        metric: Its name.
        labels: True classes, shape (N,).
    """
    if metric in _OF_PROBABILITIES:
        return 0.0
    sizes = np.unique(labels, return_counts=True)[1]
    effective = float(len(sizes) ** 2 / np.sum(1 / sizes))
    return Z * math.sqrt(2) / (effective + 2)


def draws(
    n: int, resamples: int, random: np.random.Generator, strata: NDArray[np.integer] | None = None
) -> Iterator[Floats]:
    """Weights of n images in draws with replacement, in parts of shape (n, b) that fit in memory.

    Args:
        n: Number of images.
        resamples: Number of draws, the sum of all b.
        random: Source of the draws.
        strata: Group of each image, shape (n,), or None.
    """
    members = _members(n, strata)
    for count in _chunks(n, resamples):
        column = np.arange(count)[:, None]
        weights = np.zeros(n * count)
        for places in members:
            picked = places[random.integers(len(places), size=(count, len(places)))]
            weights += np.bincount((picked * count + column).ravel(), minlength=n * count)
        yield weights.reshape(n, count)


def _widened(interval: Interval, reach: float) -> Interval:
    """The interval of a difference of shares, longer on both sides as by an error of its own."""
    if reach == 0:
        return interval
    low = interval.value - math.hypot(interval.value - interval.low, reach)
    high = interval.value + math.hypot(interval.high - interval.value, reach)
    return Interval(interval.value, max(-1.0, low), min(1.0, high), interval.n)


def _reconciled(interval: Interval, p: float) -> Interval:
    """The interval, reaching to 0 where the test finds no difference."""
    if p < 2 * (1 - UPPER_QUANTILE):
        return interval
    return Interval(interval.value, min(interval.low, 0.0), max(interval.high, 0.0), interval.n)


def _groups(
    n: int, random: np.random.Generator, strata: NDArray[np.integer] | None
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Images to leave out together: number and places of their stratum, then their own places.

    A stratum of a single image has none.
    """
    found = []
    for number, places in enumerate(_members(n, strata)):
        if len(places) > 1:
            count = min(len(places), max(2, round(_MOST_GROUPS * len(places) / n)))
            found += [(number, places, group) for group in np.array_split(random.permutation(places), count)]
    return found


def _left_out(n: int, groups: Sequence[tuple[int, NDArray[np.int64], NDArray[np.int64]]]) -> Iterator[Floats]:
    """Weights with one of the groups left out in each column, the rest of its stratum counting the more; (n, b)."""
    start = 0
    for count in _chunks(n, len(groups)):
        weights = np.ones((n, count))
        for column, (_, places, group) in enumerate(groups[start : start + count]):
            weights[places, column] = len(places) / (len(places) - len(group))
            weights[group, column] = 0
        start += count
        yield weights


def _acceleration(influences: Floats, stratum: NDArray[np.int64]) -> float:
    """A sixth of the skewness of the figure's sampling distribution, from the influence of each group of images.

    For several samples, here strata, each is centred on its own (T. J. DiCiccio and B. Efron, "Bootstrap confidence
    intervals", Statistical Science 11, 1996).
    """
    if not len(influences):
        return 0.0
    counts = np.bincount(stratum)
    used = counts > 0
    means = np.zeros(len(counts))
    means[used] = np.bincount(stratum, weights=influences)[used] / counts[used]
    centred = influences - means[stratum]
    power = float(centred @ centred) ** 1.5
    return float(np.sum(centred**3)) / (6 * power) if power > 0 else 0.0


def _members(n: int, strata: NDArray[np.integer] | None) -> list[NDArray[np.int64]]:
    if strata is None:
        return [np.arange(n)]
    return [np.flatnonzero(strata == value) for value in np.unique(strata)]


def _chunks(n: int, total: int) -> Iterator[int]:
    """Numbers of columns of n cells that are worked on together; their sum is ``total``."""
    at_once = max(1, _MOST_CELLS // n)
    for start in range(0, total, at_once):
        yield min(at_once, total - start)


def _collect(statistics: Statistics, parts: Iterator[Floats]) -> Mapping[str, Floats]:
    found: dict[str, list[Floats]] = {}
    for weights_NB in parts:
        for name, values in statistics(weights_NB).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}
