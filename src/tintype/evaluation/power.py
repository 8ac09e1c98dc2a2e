"""What a test set can tell: the least difference that would be found, and how many images another one would need.

Power is that of the exact tests which the rest of the package uses, summed up over what could be observed, not that
of a normal approximation: on a few dozen images an exact test finds much less than the approximation promises.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, bdtrik, gammaln, ndtri

from tintype.evaluation.stats import Z, wilson_bounds

POWER = 0.8
"""The customary chance of finding a difference that is there."""
ALPHA = 0.05
MOST_IMAGES = 10**8
_REACH = 9.0  # standard deviations beyond which nothing is summed up
_STEPS = 60  # of a bisection


def mcnemar_power(n: int, disagreement: float, difference: float) -> float:
    """Chance that McNemar's exact test at 5 % tells two networks apart on n images.

    The number of images that only one of the two gets right is binomial, and so is, among them, the number that the
    better one gets right (Q. McNemar, 1947; R. J. Connor, "Sample size for testing differences in proportions for the
    paired-sample design", Biometrics 43, 1987). Both are summed over. To be told apart by luck in the wrong direction
    counts as well, as in every two-sided test.

    Args:
        n: Number of images.
        disagreement: Share of images that only one of the two gets right, above 0.
        difference: How much more often the one is right than the other, at most ``disagreement``.

    Raises:
        ValueError: ``difference`` is larger than ``disagreement``, or this is not a share.
    """
    if not 0 < disagreement <= 1 or abs(difference) > disagreement * (1 + 1e-12):
        raise ValueError(
            f"disagreement must be above 0 and at most 1, and not below the difference. Got {disagreement} with a "
            f"difference of {difference}."
        )
    told, chances = _binomial(n, disagreement)
    largest = _critical(told)
    share = min(1.0, (1 + difference / disagreement) / 2)
    counts = np.maximum(largest, 0)
    rejected = bdtr(counts, told, share) + bdtrc(told - counts - 1, told, share)
    return float(chances @ np.where(largest >= 0, rejected, 0.0))


def detectable_difference(n: int, disagreement: float, power: float = POWER) -> float | None:
    """The least difference of two accuracies on the same n images that would be found with the given chance.

    Args:
        n: Number of images.
        disagreement: Share of images that only one of the two networks gets right.
        power: The chance.

    Returns:
        None where not even a network that is never worse would be found better, because too few images tell the
        two apart: McNemar's test needs six.
    """
    if disagreement <= 0 or mcnemar_power(n, disagreement, disagreement) < power:
        return None
    low, high = 0.0, disagreement
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if mcnemar_power(n, disagreement, middle) >= power else (middle, high)
    return high


def images_needed(difference: float, disagreement: float, power: float = POWER) -> int | None:
    """How many test images would tell two networks apart with the given chance.

    Args:
        difference: Of their accuracies.
        disagreement: Share of images that only one of them gets right, not below the difference.
        power: The chance.

    Returns:
        None where a hundred million would not be enough, as for no difference.

    Raises:
        ValueError: ``difference`` is larger than ``disagreement``.
    """
    if difference == 0 or (guess := _connor(difference, disagreement, power)) > MOST_IMAGES:
        return None
    high = max(1, math.ceil(guess))
    while mcnemar_power(high, disagreement, difference) < power:
        high = math.ceil(1.1 * high) + 1
    low = high // 2
    while low and mcnemar_power(low, disagreement, difference) >= power:
        low //= 2
    while high - low > max(1, high // 10_000):
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar_power(middle, disagreement, difference) >= power else (middle, high)
    return high


def detectable_drop(n: int, share: float, power: float = POWER) -> float | None:
    """How far the true accuracy must lie below a claimed one to be told from it on n images with the given chance.

    Told from it: Wilson's interval of what is measured lies below the claim, which is the score test of one share
    (J. L. Fleiss, "Statistical methods for rates and proportions", 1981, gives its normal approximation).

    Args:
        n: Number of images.
        share: The accuracy that is claimed.
        power: The chance.

    Returns:
        None where no drop would be found.
    """
    outcomes = np.arange(n + 1)
    below = np.flatnonzero(wilson_bounds(outcomes / max(n, 1), n)[1] < share)
    if not len(below):
        return None
    most = int(below[-1])
    low, high = 0.0, share
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if float(bdtr(most, n, share - middle)) >= power else (middle, high)
    return high


def images_for_margin(margin: float, share: float) -> int:
    """How many images bring the farther end of Wilson's interval within a margin of the measured share.

    Args:
        margin: Half the wanted width, above 0 and below 1.
        share: The share that is expected.

    Raises:
        ValueError: ``margin`` is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin must be above 0 and below 1. Got {margin} instead.")
    low, high = 0, 1
    while _margin(share, high) > margin:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _margin(share, middle) <= margin else (middle, high)
    return high


def _connor(difference: float, disagreement: float, power: float) -> float:
    """R. J. Connor's normal approximation of the number of images, which the exact test needs a few more than."""
    reach = Z * math.sqrt(disagreement) + float(ndtri(power)) * math.sqrt(max(disagreement - difference**2, 0.0))
    return (reach / difference) ** 2


def _margin(share: float, n: int) -> float:
    low, high = wilson_bounds(share, n)
    return max(share - float(low), float(high) - share)


def _binomial(n: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The outcomes of n trials that are at all likely, and their chances."""
    reach = _REACH * math.sqrt(n * share * (1 - share)) + _REACH
    counts = np.arange(max(0, math.floor(n * share - reach)), min(n, math.ceil(n * share + reach)) + 1)
    if share == 1:
        return np.array([n]), np.ones(1)
    logs = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    logs += counts * math.log(share) + (n - counts) * math.log1p(-share)
    chances = np.exp(logs - logs.max())
    return counts, chances / chances.sum()


def _critical(told: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each number of images that tell two networks apart, how few the worse one may have right; -1: never."""
    found = np.full(told.shape, -1, dtype=np.int64)
    enough = bdtr(0, told, 0.5) * 2 < ALPHA
    found[enough] = np.floor(bdtrik(ALPHA / 2, told[enough], 0.5)).astype(np.int64)
    # Told apart means below 5 %, not at it.
    at_edge = enough & (2 * bdtr(np.maximum(found, 0), told, 0.5) >= ALPHA)
    found[at_edge] -= 1
    return found
