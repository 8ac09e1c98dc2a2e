"""Intervals and paired tests, closed-form: no resampling, so a figure is the same on every machine and costs nothing.

A bootstrap of images cannot see what it has not drawn: where all of 18 images are right it answers [1, 1]. So
shares and what behaves like a share have Wilson's interval, at an effective number of images where the variance
comes from an influence function, and unbounded means have Hall's interval, which allows for a long tail of losses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri, stdtrit

from tintype.records import Interval

CONFIDENCE = 0.95
UPPER_QUANTILE = (1 + CONFIDENCE) / 2
Z = float(ndtri(UPPER_QUANTILE))


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a share.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Args:
        successes: How many images have the property.
        n: How many images were looked at; with none the share counts as 0 and the interval is [0, 1].

    Raises:
        ValueError: ``successes`` is not between 0 and ``n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n={n}. Got {successes} instead.")
    share = successes / n if n else 0.0
    low, high = wilson_bounds(share, n)
    return Interval(share, float(low), float(high), n)


def wilson_bounds(shares: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of Wilson's interval for many shares at once.

    Args:
        shares: Observed shares, any shape.
        n: Numbers of images behind them, of a shape that broadcasts; they need not be whole, and 0 gives [0, 1].
    """
    shares, n = np.broadcast_arrays(np.asarray(shares, dtype=np.float64), np.asarray(n, dtype=np.float64))
    counted = np.maximum(n, np.finfo(np.float64).tiny)
    # Both ends multiplied by n / (n + z^2) instead of divided by n, so that the smallest n does not overflow.
    weight = counted / (counted + Z * Z)
    centre = weight * shares + (1 - weight) / 2
    half = np.sqrt(weight * (1 - weight) * shares * (1 - shares) + ((1 - weight) / 2) ** 2)
    low = np.where((shares == 0) | (n == 0), 0.0, np.clip(centre - half, 0.0, shares))
    high = np.where((shares == 1) | (n == 0), 1.0, np.clip(centre + half, shares, 1.0))
    return low, high


def score_interval(value: float, variance: float, most: float, n: int) -> Interval:
    """Wilson's interval of a figure between 0 and 1 that is not a plain share: an average, an area under a curve.

    The figure counts as a share of ``value * (1 - value) / variance`` images, as for a share in a clustered survey
    (N. Dean and M. Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys",
    Journal of Survey Statistics and Methodology 3, 2015). A variance estimated from few mistakes, or from none, is
    too small; ``most`` bounds the effective number there.

    Args:
        value: The figure.
        variance: Its sampling variance, for instance the sum of squared influences of the images.
        most: The effective number of images if every image were as likely to be mistaken. The interval is never
            narrower than that, also where images of the smallest classes happen to be the easier ones.
        n: Number of images the figure was computed from.
    """
    value = min(max(value, 0.0), 1.0)
    spread = value * (1 - value)
    low, high = wilson_bounds(value, min(spread / variance, most) if variance > 0 and spread > 0 else most)
    return Interval(value, float(low), float(high), n)


def mean_interval(values: NDArray[np.floating], least: float, most: float) -> Interval:
    """Interval of a mean of skewed values, such as losses.

    Student's interval after Hall's cubic transformation, which removes the skewness: a few large losses among many
    small ones say that larger ones have not been seen yet. P. Hall, "On the removal of skewness by transformation",
    Journal of the Royal Statistical Society B 54 (1992). It holds from about 100 images on; below, mistakes too rare
    to have been seen can put the mean above the interval.

    Args:
        values: One value an image, shape (n,), not empty.
        least: The smallest value possible.
        most: The largest value possible. A single image says no more than that the mean lies between the two.
    """
    n = len(values)
    mean = float(np.mean(values, dtype=np.float64))
    if n == 1:
        return Interval(mean, least, most, n)
    deviations = values.astype(np.float64) - mean
    deviation = math.sqrt(float(np.mean(deviations**2)))
    if deviation == 0:
        return Interval(mean, mean, mean, n)
    skewness = float(np.mean((deviations / deviation) ** 3))
    error = deviation / math.sqrt(n - 1)
    student = float(stdtrit(n - 1, UPPER_QUANTILE))
    low = mean - error * _straighten(student, skewness, n)
    high = mean - error * _straighten(-student, skewness, n)
    return Interval(mean, max(least, min(low, mean)), min(most, max(high, mean)), n)


def _straighten(quantile: float, skewness: float, n: int) -> float:
    """The value whose Hall transform is ``quantile``; ``quantile`` itself where nothing is skewed."""
    bend = skewness / math.sqrt(n)
    if abs(bend) < 1e-6:
        return quantile
    return float(np.cbrt(1 + bend * (quantile - bend / 6)) - 1) * 3 / bend


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that two models on the same images are equally often right.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), with the binomial distribution in place of the normal one.

    Args:
        only_a: Images that only the first model got right.
        only_b: Images that only the second model got right.
    """
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
