"""Power by simulation, and figures from the literature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from tintype.evaluation.power import (
    detectable_difference,
    detectable_drop,
    images_for_margin,
    images_needed,
    mcnemar_power,
)
from tintype.evaluation.stats import mcnemar, wilson


def simulated_power(n: int, disagreement: float, difference: float, repeats: int = 4_000) -> float:
    """Share of test sets on which McNemar's test finds the difference."""
    random = np.random.default_rng(n)
    chances = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    tables = random.multinomial(n, chances, size=repeats)
    return float(np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in tables]))


@pytest.mark.parametrize(
    ("n", "disagreement", "difference"),
    [
        (36, 0.4, 0.3),
        (100, 0.1, 0.06),
        (400, 0.05, 0.03),
        (1_000, 0.2, 0.0),
        (1_000, 0.2, 0.04),
        (10_000, 0.02, -0.004),
    ],
)
def test_power_is_what_a_simulation_gives(n: int, disagreement: float, difference: float) -> None:
    power = mcnemar_power(n, disagreement, difference)
    assert simulated_power(n, disagreement, difference) == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize("n", [20, 100, 1_000, 100_000])
@pytest.mark.parametrize("disagreement", [0.01, 0.2, 0.8])
def test_equal_networks_are_told_apart_at_most_once_in_twenty(n: int, disagreement: float) -> None:
    assert mcnemar_power(n, disagreement, 0.0) <= 0.05


def test_power_of_very_few_images_is_exact() -> None:
    """Six images told apart, all by the same network: 2 / 64; five are never enough."""
    assert mcnemar_power(5, 1.0, 1.0) == 0
    assert mcnemar_power(6, 1.0, 1.0) == 1
    assert mcnemar_power(6, 1.0, 0.0) == pytest.approx(2 / 64)
    assert mcnemar_power(6, 0.5, 0.5) == pytest.approx(binom.pmf(6, 6, 0.5))


@pytest.mark.parametrize(("n", "disagreement"), [(100, 0.2), (1_000, 0.05), (10_000, 0.03)])
def test_the_detectable_difference_is_found_in_four_of_five_cases(n: int, disagreement: float) -> None:
    difference = detectable_difference(n, disagreement)
    assert difference is not None
    assert 0 < difference < disagreement
    assert mcnemar_power(n, disagreement, difference) == pytest.approx(0.8, abs=1e-6)
    assert simulated_power(n, disagreement, difference) == pytest.approx(0.8, abs=0.03)
    # R. J. Connor's formula (1987), which the exact test falls a little short of.
    z = norm.ppf(0.975), norm.ppf(0.8)
    needed = (z[0] * math.sqrt(disagreement) + z[1] * math.sqrt(disagreement - difference**2)) ** 2 / difference**2
    assert 0.8 * n < needed <= n


def test_too_few_images_can_show_nothing() -> None:
    assert detectable_difference(36, 0.05) is None
    assert detectable_difference(5, 1.0) is None
    assert detectable_difference(1_000, 0.0) is None
    assert detectable_difference(0, 0.5) is None


@pytest.mark.parametrize(("difference", "disagreement"), [(0.1, 0.3), (0.01, 0.05), (0.002, 0.03), (-0.02, 0.02)])
def test_images_needed_are_enough_and_hardly_too_many(difference: float, disagreement: float) -> None:
    n = images_needed(difference, disagreement)
    assert n is not None
    assert mcnemar_power(n, disagreement, difference) >= 0.8
    assert mcnemar_power(int(0.93 * n), disagreement, difference) < 0.8


def test_no_number_of_images_shows_no_difference() -> None:
    assert images_needed(0.0, 0.1) is None
    assert images_needed(1e-7, 0.1) is None


@pytest.mark.parametrize(("disagreement", "difference"), [(0.0, 0.0), (0.1, 0.2), (1.5, 0.1), (-0.1, 0.0)])
def test_impossible_shares_are_refused(disagreement: float, difference: float) -> None:
    with pytest.raises(ValueError, match=f"Got {disagreement} with a difference of {difference}"):
        mcnemar_power(100, disagreement, difference)


@pytest.mark.parametrize(("n", "share"), [(36, 0.9), (400, 0.9), (1_000, 0.99), (10_000, 0.5)])
def test_a_detectable_drop_is_found_in_four_of_five_cases(n: int, share: float) -> None:
    drop = detectable_drop(n, share)
    assert drop is not None
    random = np.random.default_rng(n)
    found = [wilson(int(k), n).high < share for k in random.binomial(n, share - drop, size=4_000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    # Fleiss' normal approximation is near it.
    lower = share - drop
    z = norm.ppf(0.975) * math.sqrt(share * (1 - share)) + norm.ppf(0.8) * math.sqrt(lower * (1 - lower))
    assert n == pytest.approx((z / drop) ** 2, rel=0.25)


def test_a_claim_that_nothing_can_disprove() -> None:
    assert detectable_drop(0, 0.9) is None
    assert detectable_drop(5, 0.3) is None


@given(st.floats(0.005, 0.4), st.floats(0, 1))
def test_a_margin_is_reached_with_these_images_and_not_with_fewer(margin: float, share: float) -> None:
    n = images_for_margin(margin, share)
    assert reach(share, n) <= margin
    assert n == 1 or reach(share, n - 1) > margin


def reach(share: float, n: int) -> float:
    z2 = float(norm.ppf(0.975)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(share - max(centre - half, 0), min(centre + half, 1) - share)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_impossible_margins_are_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=f"Got {margin}"):
        images_for_margin(margin, 0.5)
