"""Figures that several rules need: shares of right answers, differences between splits, differences of class mixes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from tintype.diagnosis.facts import Facts
from tintype.evaluation.stats import wilson
from tintype.records import Interval, Predictions, SplitName

HELD_OUT: tuple[SplitName, ...] = ("test", "validation")
"""The splits that were not trained on, the one that judges the network first."""


@dataclass(frozen=True)
class MixDifference:
    """How two sets of images differ in their shares of the classes.

    Attributes:
        distance: Share of the one set that would have to change class to get the mix of the other, 0 to 1 (total
            variation distance).
        statistic: Pearson's chi-square.
        freedom: Its degrees of freedom.
        p_value: Of two sets drawn from one mix.
    """

    distance: float
    statistic: float
    freedom: int
    p_value: float

    def __str__(self) -> str:
        chance = "p < 1e-6" if self.p_value < 1e-6 else f"p = {self.p_value:.2g}"
        degrees = "1 degree" if self.freedom == 1 else f"{self.freedom} degrees"
        return f"chi-square {self.statistic:.4g} with {degrees} of freedom, {chance}"


def mix_difference(one_K: ArrayLike, other_K: ArrayLike) -> MixDifference:
    """Compare two sets by their numbers of images of each class, both shape (K,), with Pearson's chi-square test."""
    counts_2K = np.asarray([one_K, other_K], dtype=np.float64)
    counts_2K = counts_2K[:, counts_2K.sum(axis=0) > 0]
    totals = counts_2K.sum(axis=1, keepdims=True)
    freedom = counts_2K.shape[1] - 1
    if not totals.all() or freedom < 1:
        return MixDifference(0.0, 0.0, max(0, freedom), 1.0)
    shares_2K = counts_2K / totals
    expected_2K = totals * counts_2K.sum(axis=0) / counts_2K.sum()
    statistic = float(((counts_2K - expected_2K) ** 2 / expected_2K).sum())
    distance = float(np.abs(shares_2K[0] - shares_2K[1]).sum()) / 2
    return MixDifference(distance, statistic, freedom, float(chdtrc(freedom, statistic)))


def held_out(facts: Facts) -> tuple[Predictions, ...]:
    """The predictions on test and on validation images, as far as there are any."""
    found = (facts.predictions or {}).get
    return tuple(part for part in map(found, HELD_OUT) if part is not None and (part.labels >= 0).any())


def accuracy(*parts: Predictions) -> Interval:
    """Share of the labelled images of all the given splits that are right, with Wilson's interval."""
    is_labelled = np.concatenate([part.labels >= 0 for part in parts])
    is_right = np.concatenate([part.predicted == part.labels for part in parts])
    return wilson(int((is_right & is_labelled).sum()), int(is_labelled.sum()))


def guessing(*parts: Predictions) -> float:
    """The accuracy to expect if the same answers were dealt out to the images of each split at random.

    The chance agreement of J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
    Measurement 20 (1960): a network that always names the largest class guesses as well as that class is large.
    """
    agreeing = images = 0.0
    for part in parts:
        is_labelled = part.labels >= 0
        classes = len(part.classes)
        true_K = np.bincount(part.labels[is_labelled], minlength=classes)
        named_K = np.bincount(part.predicted[is_labelled], minlength=classes)
        n = float(is_labelled.sum())
        agreeing += float(true_K @ named_K) / max(n, 1.0)
        images += n
    return agreeing / max(images, 1.0)


def difference(one: Interval, other: Interval) -> Interval:
    """How much larger a share is among one set of images than among another set, with its interval.

    From the two Wilson intervals: R. G. Newcombe, "Interval estimation for the difference between independent
    proportions: comparison of eleven methods", Statistics in Medicine 17 (1998), method 10. ``n`` is the smaller one.
    """
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, low, high, min(one.n, other.n))


def in_words(share: Interval) -> str:
    """``0.912 [0.884, 0.934] on 500 images``."""
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}] on {share.n:,} images"


def in_points(gap: Interval) -> str:
    """``12.3 points [5.1, 19.0]``, of the size of the gap whatever its direction."""
    low, high = sorted((100 * gap.low, 100 * gap.high)) if gap.value >= 0 else (-100 * gap.high, -100 * gap.low)
    return f"{abs(100 * gap.value):.1f} points [{low:.1f}, {high:.1f}]"
