"""Groups of recipes that cannot be told apart: every set that may be one, looked at one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tintype.evaluation.groups import indistinguishable_groups, maximal_groups
from tintype.evaluation.stats import holm, mcnemar


def every_maximal_set(is_alike: np.ndarray) -> set[tuple[int, ...]]:
    """All subsets in which every pair is alike and to which none can be added."""
    numbers = range(len(is_alike))

    def holds(group: tuple[int, ...]) -> bool:
        return all(is_alike[i, j] for i, j in combinations(group, 2))

    sets = [group for size in range(1, len(is_alike) + 1) for group in combinations(numbers, size) if holds(group)]
    return {
        group
        for group in sets
        if not any(holds(tuple(sorted((*group, more)))) for more in numbers if more not in group)
    }


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 9), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_groups_are_all_maximal_sets(count: int, seed: int, share: float) -> None:
    drawn = np.triu(np.random.default_rng(seed).random((count, count)) < share, 1)
    is_alike = drawn | drawn.T
    found = maximal_groups(is_alike)
    assert len(set(found)) == len(found)
    assert set(found) == every_maximal_set(is_alike)
    assert list(found) == sorted(found)


def test_being_alike_is_not_transitive() -> None:
    """The middle one can be told from neither end, and the ends from each other."""
    n = 400
    is_right = {"low": np.zeros((1, n), bool), "middle": np.zeros((1, n), bool), "high": np.zeros((1, n), bool)}
    for name, count in (("low", 200), ("middle", 204), ("high", 208)):
        is_right[name][0, :count] = True
    # Nested answers: 4 images tell neighbours apart (p = 0.125 before Holm), 8 the two ends (p = 0.008, 0.023 after).
    assert mcnemar(4, 0) > 0.05
    assert holm([mcnemar(4, 0), mcnemar(4, 0), mcnemar(8, 0)]).min() < 0.05
    assert indistinguishable_groups(is_right) == (("high", "middle"), ("middle", "low"))


def test_one_that_differs_from_all_is_alone_and_the_best_comes_first() -> None:
    random = np.random.default_rng(1)
    chances = {"bad": 0.2, "fine": 0.9, "fine too": 0.9}
    is_right = {name: random.random((3, 500)) < chance for name, chance in chances.items()}
    groups = indistinguishable_groups(is_right)
    assert len(groups) == 2
    assert set(groups[0]) == {"fine", "fine too"}
    assert groups[0][0] == max(is_right, key=lambda name: float(is_right[name].mean()))
    assert groups[1] == ("bad",)


@pytest.mark.parametrize("count", [0, 1])
def test_few_recipes(count: int) -> None:
    is_right = {str(number): np.ones((2, 10), bool) for number in range(count)}
    assert indistinguishable_groups(is_right) == tuple((name,) for name in is_right)


def test_equal_recipes_are_seldom_told_apart() -> None:
    """Five recipes that are all the same: in at most 1 of 20 tables does any pair come out as different."""
    random = np.random.default_rng(0)
    apart = 0
    for _ in range(100):
        hard = random.random(300)  # images differ in how hard they are, which all networks share
        is_right = {str(number): random.random((1, 300)) < hard for number in range(5)}
        apart += len(indistinguishable_groups(is_right)) > 1
    assert apart <= 8  # 5 of 100 are expected at most; 8 or fewer in 94 % of such hundreds
