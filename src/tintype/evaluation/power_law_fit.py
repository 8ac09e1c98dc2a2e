"""Fitting error(n) = a + b n^-c, with intervals that count what seeds, test images and the law itself may be off.

For a given ``c`` the law is linear in ``a`` and ``b``, so the fit goes over a fine grid of ``c`` and solves the rest in
closed form (variable projection: G. Golub and V. Pereyra, 1973): no start values, no local minimum. An interval holds
every value whose best fit is not worse than the best of all by more than chance allows (profile likelihood), which
stays right where ``a`` is at its bound of 0 and where a, b and c stand in for one another, as they do.

Three things make a measured error differ from the law, and all count: the seeds (their variance over the seeds of a
size, drawn towards that of all sizes), the test images (binomial; the sizes share them, which is not used), and the
law itself, which is a description and no truth: at each size it may be off by :data:`LEAST_MISFIT` of the error, by
more where the residuals say so, and outside the measured sizes by more the further away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from tintype.evaluation.stats import UPPER_QUANTILE

FEWEST_SIZES = 3
"""Sizes that a law with three numbers needs."""

LEAST_MISFIT = 0.03
"""The law is not trusted to be nearer than this share of the error, at one standard deviation."""

FURTHER_OFF = 6.0
"""As far beyond the measured sizes as they are apart themselves the law is off by so many times the misfit more.

Found by simulation: where the exponent grows by 0.03 in each decade, which no law of this form can follow, the interval
at six times the largest size held the truth in 76 % of experiments with 2, in 86 % with 4, and in 95 % with 6.
"""

_EXPONENTS = np.geomspace(0.02, 4.0, 320)
_BORROWED_FREEDOM = 4.0  # degrees of freedom that the seeds of all sizes lend to those of one
_MOST_FREEDOM = 1e6
_ROUNDS = 40  # of bisection: an error to 1e-12

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number of the law with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurements:
    """Sizes ascending, shape (M,), and at each the mean error, how many seeds, and their relative variance.

    ``relative_variance`` is of one seed, over the squared mean, drawn towards that of all sizes: seeds change small
    and large errors by about the same share, and the variance of a few seeds alone is hardly known (G. K. Smyth, 2004).
    """

    sizes: Floats
    means: Floats
    seeds: Floats
    relative_variance: Floats
    test_images: int

    @classmethod
    def of(cls, sizes: Sequence[int], errors: Sequence[Sequence[float]], test_images: int) -> Measurements:
        """Check and order what was measured; see :func:`tintype.evaluation.power_law.fit_learning_curve`."""
        if len(set(sizes)) < FEWEST_SIZES or len(set(sizes)) < len(sizes):
            raise ValueError(f"sizes must be at least {FEWEST_SIZES} different numbers. Got {list(sizes)} instead.")
        if min(sizes) < 1 or test_images < 1:
            raise ValueError(f"sizes and test_images must be at least 1. Got {min(sizes)} and {test_images} instead.")
        if len(errors) != len(sizes) or any(not len(of_size) for of_size in errors):
            raise ValueError("errors must hold one or more errors for each size.")
        if any(not 0 <= error <= 1 for of_size in errors for error in of_size):
            raise ValueError("errors must be shares between 0 and 1.")
        order = np.argsort(sizes)
        ordered = [np.asarray(errors[place], dtype=np.float64) for place in order.tolist()]
        means = np.array([of_size.mean() for of_size in ordered])
        freedom = np.array([len(of_size) - 1.0 for of_size in ordered])
        # An error of 0 is one that was too small to be seen: half an image stands for it.
        scale = np.maximum(means, 0.5 / test_images) ** 2
        squares = np.array([((of_size - of_size.mean()) ** 2).sum() for of_size in ordered]) / scale
        of_all = squares.sum() / freedom.sum() if freedom.sum() else 0.0
        relative = (squares + _BORROWED_FREEDOM * of_all) / (freedom + _BORROWED_FREEDOM)
        return cls(np.asarray(sizes, dtype=np.float64)[order], means, freedom + 1, relative, test_images)

    def noise(self, expected: Floats) -> Floats:
        """Variance of each mean by seeds and test images, where the errors to expect are these."""
        expected = np.clip(expected, 0.5 / self.test_images, 1.0)
        binomial = np.clip(expected * (1 - expected), 0.5 / self.test_images, None) / self.test_images
        return self.relative_variance * expected**2 / self.seeds + binomial

    @property
    def quantile(self) -> float:
        """Student's, with the degrees of freedom of the seeds."""
        freedom = float((self.seeds - 1).sum())
        return float(stdtrit(freedom + _BORROWED_FREEDOM if freedom else _MOST_FREEDOM, UPPER_QUANTILE))


@dataclass(frozen=True)
class Law:
    """The best fit, and what is needed to say how far from it a value may be.

    Attributes:
        data: What was measured.
        a: Asymptote.
        scaled_b: Error above ``a`` at the middle size.
        c: Exponent.
        misfit: How far the law is off at a measured size, as a share of the error (one standard deviation).
        weights: One over the variance of each measurement, shape (M,).
        least: Sum of squares of the best fit.
    """

    data: Measurements
    a: float
    scaled_b: float
    c: float
    misfit: float
    weights: Floats
    least: float

    @classmethod
    def fit(cls, data: Measurements) -> Law:
        """Fit with the least misfit, and with a larger one where the residuals are more than noise explains.

        The misfit is what makes the sum of squares equal to its degrees of freedom (R. C. Paule and J. Mandel, 1982).
        """
        law = cls._with_misfit(data, LEAST_MISFIT)
        freedom = len(data.sizes) - 3
        if freedom < 1 or law.least <= freedom:
            return law
        low, high = LEAST_MISFIT, 1.0
        for _ in range(20):
            middle = math.sqrt(low * high)
            law = cls._with_misfit(data, middle)
            low, high = (middle, high) if law.least > freedom else (low, middle)
        return law

    @classmethod
    def _with_misfit(cls, data: Measurements, misfit: float) -> Law:
        expected = data.means
        for _ in range(4):  # the variances depend on what is expected, which hardly changes after the first round
            weights = 1 / (data.noise(expected) + (misfit * expected) ** 2)
            a_C, b_C, squares_C = _solve(data, weights)
            best = int(np.argmin(squares_C))
            a, b, c = float(a_C[best]), float(b_C[best]), float(_EXPONENTS[best])
            expected = a + b * _falls(data.sizes, data.sizes, np.array([c]))[0]
        return cls(data, a, b, c, misfit, weights, float(squares_C[best]))

    def error_at(self, images_P: Floats) -> Floats:
        """Expected error, shape (P,)."""
        falls_P = _falls(self.data.sizes, images_P, np.array([self.c]))[0]
        return np.asarray(self.a + self.scaled_b * falls_P, dtype=np.float64)

    def interval_at(self, images_P: Floats, *, misfit: bool = True) -> tuple[Floats, Floats]:
        """95 % interval of the expected error, two of shape (P,); infinitely many images give the asymptote's.

        Args:
            images_P: Training images.
            misfit: Add how far the law may be off there.
        """
        middle = self.error_at(images_P)
        x_CM = _falls(self.data.sizes, self.data.sizes, _EXPONENTS)
        at_CP = _falls(self.data.sizes, images_P, _EXPONENTS)

        def squares(error_P: Floats) -> Floats:
            """Sum of squares of the best law through this error at each of these sizes, shape (P,)."""
            return _squares_through(self.data.means, self.weights, x_CM, at_CP, error_P)

        low = self._edge(squares, middle, np.zeros_like(middle))
        high = self._edge(squares, middle, np.ones_like(middle))
        if not misfit:
            return low, high
        off = self.data.quantile * self.misfit * middle * self._distance(images_P)
        return np.maximum(middle - np.hypot(middle - low, off), 0.0), np.minimum(
            middle + np.hypot(high - middle, off), 1.0
        )

    def exponent(self) -> Estimate:
        """``c`` with its interval."""
        _, _, squares_C = _solve(self.data, self.weights)
        inside = _EXPONENTS[squares_C <= self.least + self.data.quantile**2]
        return Estimate(self.c, float(inside.min()), float(inside.max()))

    def extent(self) -> Estimate:
        """``b`` with its interval, from the laws that the interval of ``c`` allows."""
        _, b_C, squares_C = _solve(self.data, self.weights)
        inside = squares_C <= self.least + self.data.quantile**2
        middle = float(np.exp(np.log(self.data.sizes).mean()))
        at_one = b_C[inside] * middle ** _EXPONENTS[inside]
        return Estimate(self.scaled_b * middle**self.c, float(at_one.min()), float(at_one.max()))

    def _edge(self, squares: Callable[[Floats], Floats], inside: Floats, outside: Floats) -> Floats:
        """By bisection, the value between the two where the fit gets worse than chance allows."""
        most = self.least + self.data.quantile**2
        whole = squares(outside) <= most  # the interval reaches the end of what an error can be
        far = outside.copy()
        for _ in range(_ROUNDS):
            middle = (inside + far) / 2
            is_in = squares(middle) <= most
            inside, far = np.where(is_in, middle, inside), np.where(is_in, far, middle)
        return np.where(whole, outside, inside)

    def _distance(self, images_P: Floats) -> Floats:
        """1 within the measured sizes; outside it grows by the decades beyond them, over the decades measured."""
        sizes = np.log(self.data.sizes)
        at = np.log(images_P)
        beyond = np.maximum(np.maximum(at - sizes[-1], sizes[0] - at), 0.0)
        return np.asarray(1 + FURTHER_OFF * beyond / (sizes[-1] - sizes[0]), dtype=np.float64)


def _falls(sizes: Floats, images_P: Floats, exponents_C: Floats) -> Floats:
    """``(n / middle)^-c``, shape (C, P), where the middle is the geometric mean of the measured sizes."""
    with np.errstate(divide="ignore"):
        way = np.log(images_P) - np.log(sizes).mean()
    return np.asarray(np.exp(-exponents_C[:, None] * way[None, :]), dtype=np.float64)


def _solve(data: Measurements, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """The best ``a >= 0`` and ``b >= 0`` for every exponent, and their sums of squares, each of shape (C,)."""
    x_CM = _falls(data.sizes, data.sizes, _EXPONENTS)
    share = weights / weights.sum()
    mean_x, mean_e = x_CM @ share, float(data.means @ share)
    centred = x_CM - mean_x[:, None]
    b = np.maximum((centred * share) @ (data.means - mean_e) / ((centred**2) @ share), 0.0)
    a = mean_e - b * mean_x
    through_zero = (x_CM * share) @ data.means / ((x_CM**2) @ share)
    a, b = np.where(a < 0, 0.0, a), np.where(a < 0, through_zero, b)
    squares = ((data.means - a[:, None] - b[:, None] * x_CM) ** 2) @ weights
    return a, b, squares


def _squares_through(means: Floats, weights: Floats, x_CM: Floats, at_CP: Floats, error_P: Floats) -> Floats:
    """Least sum of squares among the laws that pass through ``error_P`` at each of P sizes, shape (P,)."""
    total, by_x, by_xx = weights.sum(), x_CM @ weights, (x_CM**2) @ weights
    sum_e, sum_ee, sum_ex = weights @ means, weights @ means**2, x_CM @ (weights * means)
    # With a = error - b at, what is left is y - b z, where y = e - error and z = x - at.
    zz = by_xx[:, None] - 2 * at_CP * by_x[:, None] + at_CP**2 * total
    yz = sum_ex[:, None] - at_CP * sum_e - error_P * (by_x[:, None] - at_CP * total)
    yy = sum_ee - 2 * error_P * sum_e + error_P**2 * total
    with np.errstate(divide="ignore", invalid="ignore"):
        most_b = np.where(at_CP > 0, error_P / at_CP, np.inf)  # more would make a negative
        b = np.clip(np.where(zz > 0, yz / zz, 0.0), 0.0, most_b)
    return np.asarray((yy - 2 * b * yz + b**2 * zz).min(axis=0), dtype=np.float64)
