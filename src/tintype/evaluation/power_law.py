"""The learning curve as a law: error(n) = a + b n^-c for n training images, fitted, extrapolated and checked.

The form is that of C. Cortes et al., "Learning curves: asymptotic values and rate of convergence", NIPS 6 (1993);
weighting and prediction of sample sizes follow R. L. Figueroa et al., "Predicting sample size required for
classification performance", BMC Medical Informatics and Decision Making 12:8 (2012), and R. Mahmood et al., "How much
more data do I need?", CVPR (2022).

How it is fitted and where the intervals come from stands in :mod:`tintype.evaluation.power_law_fit`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tintype.evaluation.power_law_fit import FEWEST_SIZES, Estimate, Floats, Law, Measurements

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Accuracies for which the number of images is told, as far as the smallest size does not reach them."""

HORIZON = 100
"""How many times the largest size the law is followed to; beyond that it is guessing."""

DRAWN_TO = 10
"""How many times the largest size the curve is drawn to."""

_POINTS_A_DECADE = 16


@dataclass(frozen=True)
class CurvePoint:
    """The error that the law expects with so many training images, and its 95 % interval."""

    images: int
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Needed:
    """Training images that an accuracy needs.

    Attributes:
        accuracy: The target.
        images: By the law; None where it is not reached.
        low: Fewest that are compatible with what was measured; None where even those do not reach it.
        high: Most; None where the target may be out of reach.
        is_possible: Whether the law's best possible accuracy is above the target, however many images that takes.
    """

    accuracy: float
    images: int | None
    low: int | None
    high: int | None
    is_possible: bool


@dataclass(frozen=True)
class HeldOut:
    """The largest size, predicted from the smaller ones alone, beside what was measured there.

    Attributes:
        images: Training images of the largest size.
        predicted: Error and interval from the smaller sizes.
        measured: Mean error over the seeds.
        holds: Whether what was measured lies inside the interval.
    """

    images: int
    predicted: Estimate
    measured: float
    holds: bool


@dataclass(frozen=True)
class LearningCurve:
    """A fitted learning curve. Plain values alone, so that it can be written as JSON.

    Attributes:
        a: The error that no number of images takes away.
        b: Error above ``a`` at one image, as far as the law goes back.
        c: How fast it falls: ten times the images leave ``10^-c`` of it.
        sizes: Training images that were measured, ascending.
        test_images: Behind each error.
        misfit: How far the law is off at a measured size, as a share of the error (one standard deviation).
        points: The curve with its band, from the smallest size on.
        needed: Images for each target.
        horizon: Training images beyond which nothing is claimed.
        held_out: The check; None with fewer than four sizes.
    """

    a: Estimate
    b: Estimate
    c: Estimate
    sizes: tuple[int, ...]
    test_images: int
    misfit: float
    points: tuple[CurvePoint, ...]
    needed: tuple[Needed, ...]
    horizon: int
    held_out: HeldOut | None


def fit_learning_curve(sizes: Sequence[int], errors: Sequence[Sequence[float]], test_images: int) -> LearningCurve:
    """Fit the law to the errors of networks that were trained afresh with each number of images.

    Args:
        sizes: Training images, at least :data:`FEWEST_SIZES` different numbers, in any order.
        errors: For each size the share of test images that was wrong, one for each seed.
        test_images: How many test images there are.

    Raises:
        ValueError: Too few sizes, a size without errors, or an error that is no share.
    """
    data = Measurements.of(sizes, errors, test_images)
    law = Law.fit(data)
    horizon = HORIZON * int(data.sizes[-1])
    grid = _grid(float(data.sizes[0]), float(horizon))
    low, high = law.interval_at(grid)
    middle = law.error_at(grid)
    drawn = grid <= DRAWN_TO * data.sizes[-1] * (1 + 1e-9)
    smallest = 1 - float(law.error_at(data.sizes[:1])[0])
    a_low, a_high = law.interval_at(np.array([np.inf]), misfit=False)
    return LearningCurve(
        a=Estimate(law.a, float(a_low[0]), float(a_high[0])),
        b=law.extent(),
        c=law.exponent(),
        sizes=tuple(int(size) for size in data.sizes),
        test_images=test_images,
        misfit=law.misfit,
        points=tuple(
            CurvePoint(round(float(n)), float(e), float(lo), float(hi))
            for n, e, lo, hi in zip(grid[drawn], middle[drawn], low[drawn], high[drawn], strict=True)
        ),
        needed=tuple(
            Needed(
                accuracy=target,
                images=_first_at_most(grid, middle, 1 - target),
                low=_first_at_most(grid, low, 1 - target),
                high=_first_at_most(grid, high, 1 - target),
                is_possible=law.a < 1 - target,
            )
            for target in TARGETS
            if target > smallest
        ),
        horizon=horizon,
        held_out=_hold_out(sizes, errors, test_images),
    )


def extrapolate_error(
    sizes: Sequence[int], errors: Sequence[Sequence[float]], test_images: int, images: int
) -> Estimate:
    """The error that the law expects with so many training images, and its 95 % interval.

    Args:
        sizes: As for :func:`fit_learning_curve`.
        errors: As for :func:`fit_learning_curve`.
        test_images: As for :func:`fit_learning_curve`.
        images: Training images, any number.

    Raises:
        ValueError: As :func:`fit_learning_curve`.
    """
    law, at = Law.fit(Measurements.of(sizes, errors, test_images)), np.array([float(images)])
    low, high = law.interval_at(at)
    return Estimate(float(law.error_at(at)[0]), float(low[0]), float(high[0]))


def _grid(first: float, last: float) -> Floats:
    count = math.ceil(math.log10(last / first) * _POINTS_A_DECADE) + 1
    return np.geomspace(first, last, count)


def _first_at_most(grid: Floats, errors: Floats, wanted: float) -> int | None:
    """The number of images from which on a curve is at most ``wanted``, to two digits more than can be known."""
    reached = np.flatnonzero(errors <= wanted)
    if not len(reached):
        return None
    place = int(reached[0])
    if place == 0:
        return round(float(grid[0]))
    one, other = (math.log(max(float(errors[number]), 1e-12)) for number in (place - 1, place))
    part = (one - math.log(wanted)) / (one - other)
    way = math.log(float(grid[place - 1])) * (1 - part) + math.log(float(grid[place])) * part
    return math.ceil(math.exp(way))


def _hold_out(sizes: Sequence[int], errors: Sequence[Sequence[float]], test_images: int) -> HeldOut | None:
    """Nothing of the largest size takes part in its prediction, its spread over the seeds neither."""
    if len(sizes) <= FEWEST_SIZES:
        return None
    largest = int(np.argmax(sizes))
    others = [number for number in range(len(sizes)) if number != largest]
    known = [sizes[number] for number in others], [errors[number] for number in others]
    predicted = extrapolate_error(*known, test_images, sizes[largest])
    measured = float(np.mean(errors[largest]))
    return HeldOut(sizes[largest], predicted, measured, predicted.low <= measured <= predicted.high)
