"""Which of many networks cannot be told apart from each other.

What a table of letters shows beside the means of an experiment (H.-P. Piepho, "An algorithm for a letter-based
representation of all-pairwise comparisons", Journal of Computational and Graphical Statistics 13, 2004): two that
share a group cannot be told apart, two that share none can. Being alike is not transitive: the first may be like the
second and the second like the third, while the first and the third differ; then the second stands in two groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.stats import holm, paired_difference


def indistinguishable_groups(
    is_right: Mapping[str, NDArray[np.bool_]], significant: float = 0.05
) -> tuple[tuple[str, ...], ...]:
    """The maximal sets of recipes in which no pair differs in accuracy, after Holm's adjustment for all pairs.

    Args:
        is_right: Name of each recipe to whether image n is right by its network s, shape (S, N) with the same N images.
        significant: Adjusted p-values below this tell two recipes apart.

    Returns:
        Names, the most accurate first, in groups that go by their most accurate members. Every recipe is in one group
        or more; one that differs from all others is alone in its own.
    """
    ranked = sorted(is_right, key=lambda name: -float(is_right[name].mean()))
    pairs = list(combinations(range(len(ranked)), 2))
    p_values = [paired_difference(is_right[ranked[i]], is_right[ranked[j]])[1] for i, j in pairs]
    is_alike = np.ones((len(ranked), len(ranked)), dtype=np.bool_)
    for (i, j), p in zip(pairs, holm(p_values).tolist(), strict=True):
        is_alike[i, j] = is_alike[j, i] = p >= significant
    return tuple(tuple(ranked[number] for number in group) for group in maximal_groups(is_alike))


def maximal_groups(is_alike_PP: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    """The largest sets in which every pair is alike: the maximal cliques of the graph.

    With a pivot, so that no set is looked at twice: C. Bron and J. Kerbosch, "Algorithm 457: finding all cliques of an
    undirected graph", Communications of the ACM 16 (1973).

    Args:
        is_alike_PP: Whether two of P are alike, symmetric; the diagonal does not count.

    Returns:
        Numbers in ascending order within each group, groups in lexicographic order.
    """
    neighbours = [
        {int(other) for other in np.flatnonzero(row) if other != number} for number, row in enumerate(is_alike_PP)
    ]
    found: list[tuple[int, ...]] = []
    _extend([], set(range(len(neighbours))), set(), neighbours, found)
    return tuple(sorted(found))


def _extend(
    group: list[int],
    candidates: set[int],
    done: set[int],
    neighbours: Sequence[set[int]],
    found: list[tuple[int, ...]],
) -> None:
    """Add every maximal set that holds ``group`` and otherwise only candidates.

    Args:
        group: All of these are alike.
        candidates: Like all of the group, and still to be tried.
        done: Like all of the group, but every set with them has been found.
        neighbours: What each number is like.
        found: The sets so far.
    """
    if not candidates and not done:
        if group:
            found.append(tuple(sorted(group)))
        return
    pivot = max(candidates | done, key=lambda number: len(candidates & neighbours[number]))
    for number in sorted(candidates - neighbours[pivot]):
        near = neighbours[number]
        _extend([*group, number], candidates & near, done & near, neighbours, found)
        candidates.remove(number)
        done.add(number)
