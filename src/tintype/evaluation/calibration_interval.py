"""The interval of the expected calibration error: which true errors could have given the figure that was seen.

The truth is the error that endlessly many images would have in the same bins. The figure of a test set is no mean of
images: a gap between accuracy and confidence counts whatever its sign, so noise in a bin adds to it, most of all where
accuracy and confidence are alike. It is too large on average, by an amount that the truth decides (R. Roelofs and
others, "Mitigating bias in calibration error estimation", AISTATS 2022; A. Kumar and others, "Verified uncertainty
calibration", NeurIPS 2019). No variance about the figure and no bootstrap of the images allows for that.

So a test is inverted. For each possible truth the accuracies of the bins are the most likely ones that have it, and the
figure's mean and variance follow from them: hybrid resampling (C.-S. Chuang and T. L. Lai, "Hybrid resampling methods
for confidence intervals", Statistica Sinica 10, 2000), here with moments in closed form in place of draws. Truths whose
figure would be as far as the one seen in fewer than 2.5 % of test sets, on either side, are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from tintype.evaluation.stats import Z
from tintype.records import Interval

Floats = NDArray[np.float64]

# Multipliers of the constraint, from perfect calibration to as bad as can be. They are dense about 1, where accuracies
# leave 0 and 1: with no mistake seen, the most likely accuracy at the multiplier t is 1 / t.
_RISING = np.concatenate([np.geomspace(1e-3, 1, 25), 1 + np.geomspace(1e-6, 100, 60)])
_MULTIPLIERS = np.concatenate([-_RISING[::-1], [0.0], _RISING])
# Chance makes some of the gaps that were seen smaller than the true ones, and noise adds most to small gaps. So what it
# adds is overestimated, and the upper end would be too low. Three quarters of it kept the promise in simulations.
_NOISE_AT_UPPER_END = 0.75
_MOST_SKEWNESS = 2.0  # above, the Cornish-Fisher expansion is no guide


def calibration_interval(
    confidences: NDArray[np.floating], correct: NDArray[np.integer], counts: NDArray[np.integer]
) -> Interval:
    """The expected calibration error of binned images, with its 95 % interval; see :func:`plausible_errors`."""
    return plausible_errors(confidences, correct, counts)[0]


def plausible_errors(
    confidences: NDArray[np.floating], correct: NDArray[np.integer], counts: NDArray[np.integer]
) -> tuple[Interval, float]:
    """The expected calibration error of binned images and the truths that it could come from.

    Args:
        confidences: Mean probability of the predicted class, per bin, shape (B,).
        correct: Number of right predictions, per bin.
        counts: Number of images, per bin, at least 1.

    Returns:
        The figure with its interval, and the truth that gives this figure on average: 0 where none gives one so small.
    """
    confident: Floats = np.clip(confidences.astype(np.float64), 0, 1)
    shares, observed = counts / counts.sum(), correct / counts
    figure = float(shares @ np.abs(observed - confident))
    accuracies_TB = _most_likely_accuracies(confident, observed)
    truths = np.abs(accuracies_TB - confident) @ shares
    means, deviations, skewness = _moments(confident, accuracies_TB, counts.astype(np.float64))
    # Cornish and Fisher's correction: rare mistakes make large figures less rare than the normal distribution has them.
    # For small figures it is left out, since it would rely on mistakes that were not seen.
    reach = Z + (Z * Z - 1) / 6 * np.clip(skewness, -_MOST_SKEWNESS, _MOST_SKEWNESS)
    too_large = figure - means - reach * deviations
    too_small = truths + _NOISE_AT_UPPER_END * (means - truths) - figure - Z * deviations
    low = _first_plausible(truths, too_large, figure)
    high = _first_plausible(truths[::-1], too_small[::-1], figure)
    interval = Interval(figure, min(low, figure), max(high, figure), int(counts.sum()))
    return interval, _first_plausible(truths, figure - means, figure)


def _first_plausible(truths: Floats, excess: Floats, otherwise: float) -> float:
    """The first truth at which the excess is not above 0, between two by a straight line."""
    plausible = np.flatnonzero(excess <= 0)
    if not len(plausible):
        return otherwise
    place = int(plausible[0])
    if place == 0:
        return float(truths[0])
    before, after = excess[place - 1], excess[place]
    return float(truths[place - 1] + (truths[place] - truths[place - 1]) * before / (before - after))


def _most_likely_accuracies(confidences: Floats, observed: Floats) -> Floats:
    """The likeliest accuracies of the bins for each of many calibration errors, a row each, from 0 on; (T, B).

    With a multiplier t of the constraint each bin has the accuracy that maximises its mean log-likelihood plus t times
    its gap; the number of its images cancels. There is one such accuracy on either side of the confidence, and the one
    that is farther from it is taken: 18 of 18 right at a confidence of 0.97 can be the luck of a network that is right
    in 85 %.
    """
    multipliers_T1 = _MULTIPLIERS[:, None]
    above_TB = np.maximum(_stationary(observed, multipliers_T1), confidences)
    below_TB = np.minimum(_stationary(observed, -multipliers_T1), confidences)
    likeliest_TB = np.where(above_TB - confidences >= confidences - below_TB, above_TB, below_TB)
    likeliest_TB[0] = confidences  # the limit, which no multiplier reaches
    return likeliest_TB


def _stationary(observed: Floats, multipliers: Floats) -> Floats:
    """Where observed * log(a) + (1 - observed) * log(1 - a) + multiplier * a is largest for a in [0, 1].

    That is the root of multiplier * a^2 + (1 - multiplier) * a - observed = 0, in the form that loses no digits.
    """
    middle = 1 - multipliers
    root = np.sqrt(np.maximum(middle**2 + 4 * multipliers * observed, 0))
    divisor = middle + root
    small = np.divide(2 * observed, divisor, out=np.zeros_like(divisor), where=(middle > 0) & (divisor > 0))
    large = np.divide(root - middle, 2 * multipliers, out=np.zeros_like(divisor), where=middle <= 0)
    return np.clip(np.where(middle > 0, small, large), 0, 1)


def _moments(confidences: Floats, accuracies_TB: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, standard deviation and skewness of the figure of a test set, for each row of accuracies.

    The means are exact given how many images fall into each bin, and so are the variances; to these comes what the
    numbers of images in the bins add when they vary. The skewness takes the sign of each gap as it mostly is.
    """
    n = counts.sum()
    shares = counts / n
    gaps_TB = np.abs(accuracies_TB - confidences)
    seen_TB = _mean_distance(confidences, accuracies_TB, counts)
    spread_TB = accuracies_TB * (1 - accuracies_TB)
    beyond_TB = gaps_TB - (gaps_TB @ shares)[:, None]
    variance_TB = np.maximum(spread_TB / counts + gaps_TB**2 - seen_TB**2, 0)
    variances = variance_TB @ shares**2 + beyond_TB**2 @ shares / n
    sign_TB = np.divide(accuracies_TB - confidences, seen_TB, out=np.zeros_like(seen_TB), where=seen_TB > 0)
    third_TB = spread_TB * (sign_TB * (1 - 2 * accuracies_TB) + 3 * np.abs(sign_TB) * beyond_TB) + beyond_TB**3
    deviations = np.sqrt(variances)
    skewness = np.divide(
        third_TB @ shares / n**2, deviations**3, out=np.zeros_like(deviations), where=deviations > 1e-9
    )
    return seen_TB @ shares, deviations, skewness


def _mean_distance(confidences: Floats, accuracies_TB: Floats, counts: Floats) -> Floats:
    """Exact mean distance of a binomial share of ``counts`` images from the confidence."""
    whole = np.floor(counts * confidences)
    # The mean of max(k - counts * confidence, 0) for a binomial number k of right images.
    above_TB = counts * (
        accuracies_TB * _at_least(counts - 1, whole, accuracies_TB)
        - confidences * _at_least(counts, whole + 1, accuracies_TB)
    )
    return 2 * above_TB / counts - (accuracies_TB - confidences)


def _at_least(n: Floats, least: Floats, share: Floats) -> Floats:
    """Chance that a binomial number out of n is not below ``least``, which may lie outside of 0 to n."""
    inside = betainc(np.maximum(least, 1), np.maximum(n - least + 1, 1), share)
    return np.where(least <= 0, 1.0, np.where(least > n, 0.0, inside))
