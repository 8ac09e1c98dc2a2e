"""Intervals and paired tests, closed-form: no resampling, so a figure is the same on every machine and costs nothing.

A bootstrap of images cannot see what it has not drawn: where all of 18 images are right it answers [1, 1]. So
shares and what behaves like a share have Wilson's interval, at an effective number of images where the variance
comes from an influence function, and unbounded means have Hall's interval, which allows for a long tail of losses.

Several networks of one recipe, trained with different seeds and judged on the same images, are a crossed sample: the
images were drawn and the seeds were drawn. More seeds never stand in for more images, nor the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from tintype.records import Interval

CONFIDENCE = 0.95
UPPER_QUANTILE = (1 + CONFIDENCE) / 2
Z = float(ndtri(UPPER_QUANTILE))
_MOST_FREEDOM = 1e9  # degrees of freedom at which Student's distribution is the normal one
_PRIOR_FREEDOM = 10.0  # what a variance that is known beforehand counts for


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


def influence_interval(
    value: float, influences: NDArray[np.float64], counts: NDArray[np.integer], most: float, n: int
) -> Interval:
    """Wilson's interval of a figure between 0 and 1 whose variance rests on few images, such as those ranked wrongly.

    The variance of a figure near 1 comes from a handful of images and is as uncertain as they are few: it has, by the
    kurtosis of the influences, the degrees of freedom 2 * sum(I^2)^2 / sum(I^4) (F. E. Satterthwaite, "An approximate
    distribution of estimates of variance components", Biometrics Bulletin 2, 1946). So it is moderated as by
    G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression", Statistical
    Applications in Genetics and Molecular Biology 3 (2004): averaged with a prior one that counts as 10 degrees of
    freedom, never below itself, with Student's quantile in place of the normal one. The rest is as for
    :func:`score_interval`.

    Args:
        value: The figure.
        influences: By how much an image moves the figure, a value for each kind of image.
        counts: Number of images of each kind.
        most: The effective number of images of the prior, ``value * (1 - value) / variance``; it also holds where all
            influences are 0.
        n: Number of images the figure was computed from.
    """
    squares = influences**2
    variance, spread = float(counts @ squares), value * (1 - value)
    if variance == 0 or spread <= 0:
        return score_interval(value, 0.0, most, n)
    freedom = 2 / float(counts @ (squares / variance) ** 2)
    together = freedom + _PRIOR_FREEDOM
    moderated = max(variance, (freedom * variance + _PRIOR_FREEDOM * spread / most) / together)
    stretched = moderated * (float(stdtrit(together, UPPER_QUANTILE)) / Z) ** 2
    return score_interval(value, stretched, math.inf, n)


def mean_interval(values: NDArray[np.floating], least: float, most: float) -> Interval:
    """Interval of a mean of skewed values, such as losses.

    Student's interval after Hall's cubic transformation, which removes the skewness: a few large losses among many
    small ones say that larger ones have not been seen yet. P. Hall, "On the removal of skewness by transformation",
    Journal of the Royal Statistical Society B 54 (1992). It holds from about 100 images on; below, mistakes too rare
    to have been seen can put the mean above the interval (its coverage is 91 to 92 % for 18 images with 98 % right, of
    which most test sets hold no mistake). Their cost cannot be told from the images, only bounded by ``most``.

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


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted so that all comparisons together raise a false alarm in at most 5 of 100 cases.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).

    Args:
        p_values: Shape (m,), in any order, which is kept.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given)
    adjusted = np.empty_like(given)
    adjusted[order] = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    return np.minimum(adjusted, 1.0)


def crossed_share(is_so_SN: NDArray[np.bool_]) -> Interval:
    """A share over several networks on the same images: an interval for other images and other seeds.

    Wilson's at the number of images that has the same variance, which is never more than there are images. To the
    variance of one network on these images comes what the seeds add in a two-way random layout, images by seeds, with
    Satterthwaite's degrees of freedom, as for several readers of the same X-rays (S. L. Hillis, "A comparison of
    denominator degrees of freedom methods for multiple observer ROC analysis", Statistics in Medicine 26, 2007). With
    one network, or with seeds that agree, it is Wilson's.

    Args:
        is_so_SN: Whether image n has the property by network s, shape (S, N).
    """
    n = is_so_SN.shape[1]
    value = float(np.mean(is_so_SN))
    if len(is_so_SN) == 1 or n < 2:
        low, high = wilson_bounds(value, n)
        return Interval(value, float(low), float(high), n)
    variance, freedom = _with_seeds(value * (1 - value) / n, (_crossed(is_so_SN.astype(np.float64)),))
    stretched = variance * (float(stdtrit(freedom, UPPER_QUANTILE)) / Z) ** 2
    return score_interval(value, stretched, most=n, n=n)


def crossed_mean(values_SN: NDArray[np.floating], least: float, most: float) -> Interval:
    """A mean over several networks on the same images, such as a loss: an interval for other images and other seeds.

    The interval of :func:`mean_interval` of the images' means over the networks, stretched by what the seeds add.

    Args:
        values_SN: One value for each network and image, shape (S, N).
        least: The smallest value possible.
        most: The largest value possible.
    """
    of_images = mean_interval(np.mean(values_SN, axis=0), least, most)
    if len(values_SN) == 1 or of_images.n < 2:
        return of_images
    parts = _crossed(values_SN.astype(np.float64))
    if parts.images == 0:
        return of_images
    variance, freedom = _with_seeds(parts.images, (parts,))
    quantiles = stdtrit(np.array([freedom, of_images.n - 1]), UPPER_QUANTILE)
    stretch = max(1.0, float(quantiles[0] / quantiles[1]) * math.sqrt(variance / parts.images))
    value = of_images.value
    low, high = value - stretch * (value - of_images.low), value + stretch * (of_images.high - value)
    return Interval(value, max(least, low), min(most, high), of_images.n)


def paired_difference(one_SN: NDArray[np.bool_], other_SN: NDArray[np.bool_]) -> tuple[Interval, float]:
    """How much more often the one is right than the other on the same images, and how surely.

    Two made-up images, one that only the one gets right and one that only the other does, keep the interval honest
    where hardly an image tells the two apart: D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37
    (2012), which this is for one network on each side. Where both sides have several, what their seeds add to the
    variance is counted, as in :func:`crossed_share`; the seeds of the two sides need not match.

    Args:
        one_SN: Whether image n is right by network s, shape (S, N).
        other_SN: The same for the other side, shape (T, N).

    Returns:
        The difference of the two shares with its interval, and the two-sided p-value of no difference: McNemar's
        exact one for a single network on each side, else from Student's distribution, on the scale of log odds where
        both sides have several. On that scale seeds scatter alike near 0.9 and near 0.99; in points five seeds that
        scatter by six would hide a difference of fourteen.
    """
    n = one_SN.shape[1]
    differences = one_SN.mean(axis=0) - other_SN.mean(axis=0)
    centre = float(differences.sum()) / (n + 2)
    variance = (float(differences @ differences) + 2) / (n + 2) - centre**2
    several = min(len(one_SN), len(other_SN)) > 1 and n > 1
    parts = tuple(_crossed(side.astype(np.float64)) for side in (one_SN, other_SN)) if several else ()
    variance, freedom = _with_seeds(variance / (n + 2), parts)
    error = math.sqrt(variance)
    reach = float(stdtrit(freedom, UPPER_QUANTILE)) * error
    value = float(differences.mean())
    interval = Interval(value, max(-1.0, min(value, centre - reach)), min(1.0, max(value, centre + reach)), n)
    if len(one_SN) == len(other_SN) == 1:
        return interval, mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    if several:
        return interval, _p_of_log_odds(one_SN, other_SN, parts)
    return interval, 2 * float(stdtr(freedom, -abs(centre) / error))


def _p_of_log_odds(one_SN: NDArray[np.bool_], other_SN: NDArray[np.bool_], parts: Sequence[_Crossed]) -> float:
    """The two-sided p-value of no difference of the log odds of being right, as :func:`paired_difference` takes it.

    Each network counts with half an image more that is right and half an image more that is wrong (J. B. S. Haldane,
    "The estimation and significance of the logarithm of a ratio of frequencies", Annals of Human Genetics 20, 1956).
    """
    n = one_SN.shape[1]
    shares = [(side.sum(axis=1) + 0.5) / (n + 1) for side in (one_SN, other_SN)]
    odds = [np.log(share / (1 - share)) for share in shares]
    # How much faster log odds change than the share does, at the mean share of each side.
    slopes = [1 / float(share.mean() * (1 - share.mean())) for share in shares]
    per_image = slopes[0] * one_SN.mean(axis=0) - slopes[1] * other_SN.mean(axis=0)
    images = (float(np.sum((per_image - per_image.mean()) ** 2)) + slopes[0] ** 2 + slopes[1] ** 2) / (n + 2) ** 2
    scaled = [
        replace(part, seeds=float(values.var(ddof=1)) / part.count, noise=part.noise * slope**2)
        for part, values, slope in zip(parts, odds, slopes, strict=True)
    ]
    variance, freedom = _with_seeds(images, scaled)
    return 2 * float(stdtr(freedom, -abs(float(odds[0].mean() - odds[1].mean())) / math.sqrt(variance)))


@dataclass(frozen=True)
class _Crossed:
    """Variances of the mean of a table of seeds by images, by where they come from.

    Attributes:
        images: Of the images' means over the seeds; holds the noise too.
        seeds: Of the seeds' means over the images; holds the noise too.
        noise: Of what is particular to one seed on one image.
        count: Number of seeds.
    """

    images: float
    seeds: float
    noise: float
    count: int


def _crossed(values_SN: NDArray[np.float64]) -> _Crossed:
    count, n = values_SN.shape
    of_seeds, of_images = values_SN.mean(axis=1), values_SN.mean(axis=0)
    residuals = values_SN - of_seeds[:, None] - of_images[None, :] + values_SN.mean()
    noise = float(np.sum(residuals**2)) / ((count - 1) * (n - 1)) / (count * n)
    return _Crossed(float(of_images.var(ddof=1)) / n, float(of_seeds.var(ddof=1)) / count, noise, count)


def _with_seeds(images: float, parts: Sequence[_Crossed]) -> tuple[float, float]:
    """Variance with what the seeds add to that of the images, and its degrees of freedom (Satterthwaite)."""
    added = sum(item.seeds - item.noise for item in parts)
    if added <= 0:
        return images, _MOST_FREEDOM
    variance = images + added
    return variance, min(_MOST_FREEDOM, variance**2 / sum(item.seeds**2 / (item.count - 1) for item in parts))
