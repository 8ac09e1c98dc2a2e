"""The winner's curse: held against simulations in which the truth is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from tintype.evaluation.selection import judge_selection
from tintype.evaluation.stats import wilson

SHARED = 1.5  # deviation of the images' difficulty, in deviations of a candidate's own errors


def simulate(
    truths: NDArray[np.float64], images: int, random: np.random.Generator, shared: float = SHARED
) -> NDArray[np.bool_]:
    """Candidates of known accuracy that err partly on the same images, shape (T, V)."""
    skills = ndtri(truths) * np.hypot(1, shared)
    difficulty = shared * random.standard_normal(images)
    right: NDArray[np.bool_] = skills[:, None] + difficulty + random.standard_normal((len(truths), images)) > 0
    assert ndtr(skills[0] / np.hypot(1, shared)) == pytest.approx(truths[0])
    return right


def repeated(
    truths: NDArray[np.float64], images: int, times: int, shared: float = SHARED
) -> tuple[NDArray[np.float64], float]:
    """Errors of (observed, expected) beside the truth of the chosen candidate, shape (times, 2), and the coverage."""
    random = np.random.default_rng(0)
    errors, covered = [], 0
    for _ in range(times):
        right = simulate(truths, images, random, shared)
        truth = float(truths[right.mean(axis=1).argmax()])
        found = judge_selection(right, resamples=200, seed=int(random.integers(1 << 30)))
        errors.append((found.observed - truth, found.expected - truth))
        covered += found.low <= truth <= found.high
    return np.array(errors), covered / times


@pytest.mark.parametrize("shared", [0.0, SHARED])
def test_equal_candidates_the_optimism_is_found(shared: float) -> None:
    errors, coverage = repeated(np.full(60, 0.9), 400, 120, shared)
    observed, expected = errors.mean(axis=0)
    assert observed > 0.015  # the curse is there
    assert abs(expected) < 0.2 * observed  # and is taken out
    assert coverage >= 0.93


def test_spread_candidates_the_optimism_is_small_and_never_hidden() -> None:
    errors, coverage = repeated(np.linspace(0.7, 0.92, 40), 500, 120)
    observed, expected = errors.mean(axis=0)
    assert 0 < observed < 0.015
    assert -0.6 * observed < expected < 0.4 * observed  # on the careful side
    assert coverage >= 0.93


def test_a_candidate_that_is_far_ahead_owes_nothing_to_the_choice() -> None:
    right = simulate(np.array([0.6, 0.62, 0.58, 0.95]), 1000, np.random.default_rng(1))
    found = judge_selection(right)
    assert found.observed == right[3].mean()
    assert found.optimism < 0.001


def test_one_candidate_has_wilsons_interval_and_no_optimism() -> None:
    right = np.arange(100)[None] < 90
    found, share = judge_selection(right), wilson(90, 100)
    assert (found.candidates, found.optimism, found.observed) == (1, 0.0, 0.9)
    assert (found.low, found.high) == pytest.approx((share.low, share.high))


def test_copies_of_one_candidate_count_as_one() -> None:
    right = np.random.default_rng(0).random(400) < 0.8
    assert judge_selection(np.repeat(right[None], 50, axis=0)).optimism == pytest.approx(0, abs=1e-12)
    assert judge_selection(np.repeat(right[None], 50, axis=0), [7] * 50).candidates == 1


def test_trainings_with_several_seeds_count_as_their_mean() -> None:
    right = simulate(np.full(6, 0.8), 300, np.random.default_rng(2))
    found = judge_selection(right, [4, 4, 4, 9, 9, 9])
    means = right[:3].mean(), right[3:].mean()
    assert (found.candidates, found.n) == (2, 300)
    assert found.observed == pytest.approx(max(means))
    assert judge_selection(right, [4, 4, 4, 9, 9, 9], chosen=4).observed == pytest.approx(means[0])
    assert found.optimism < judge_selection(right).optimism


def test_the_order_of_equal_candidates_decides_nothing() -> None:
    right = simulate(np.full(40, 0.9), 30, np.random.default_rng(3))  # many ties
    forward, backward = judge_selection(right, seed=5), judge_selection(right[::-1], seed=5)
    assert forward.expected == pytest.approx(backward.expected, abs=1e-12)


def test_the_same_seed_gives_the_same_estimate() -> None:
    right = simulate(np.full(10, 0.9), 200, np.random.default_rng(4))
    assert judge_selection(right, seed=1) == judge_selection(right, seed=1)
    assert judge_selection(right, seed=1) != judge_selection(right, seed=2)


def test_two_images_are_the_least() -> None:
    found = judge_selection(np.array([[True, False], [True, True]]))
    assert 0 <= found.low <= found.expected <= found.observed == 1.0
    with pytest.raises(ValueError, match="V >= 2"):
        judge_selection(np.ones((3, 1), dtype=bool))


def test_what_does_not_fit_is_refused() -> None:
    right = np.ones((3, 10), dtype=bool)
    with pytest.raises(ValueError, match="one for each of 3 trainings"):
        judge_selection(right, [0, 1])
    with pytest.raises(ValueError, match="one of the 2 candidates"):
        judge_selection(right, [0, 0, 1], chosen=2)


@pytest.mark.slow
def test_300_candidates_of_10000_images_take_seconds() -> None:
    right = simulate(np.linspace(0.9, 0.99, 300), 10_000, np.random.default_rng(0))
    started = time.perf_counter()
    judge_selection(right)
    assert time.perf_counter() - started < 15
