"""Nearest neighbours by cosine distance, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tintype.evaluation import neighbours
from tintype.evaluation.neighbours import directions, nearest


def test_nearest_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    queries, references = random.normal(size=(37, 9)), random.normal(size=(50, 9))
    monkeypatch.setattr(neighbours, "_BLOCK_VALUES", 120)  # several blocks
    found = nearest(queries, references, 4)
    away = cdist(queries, references, "cosine")
    np.testing.assert_array_equal(found.indices, np.argsort(away, axis=1)[:, :4])
    np.testing.assert_allclose(found.distances, np.sort(away, axis=1)[:, :4], atol=1e-6)


def test_length_does_not_count_and_ties_go_to_the_first() -> None:
    references = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    found = nearest(np.array([[7.0, 0.0]]), references, 2)
    assert found.indices.tolist() == [[1, 2]]
    np.testing.assert_allclose(found.distances, 0)


def test_fewer_references_than_wanted_and_features_that_are_all_zero() -> None:
    found = nearest(np.zeros((2, 3)), np.ones((2, 3)), 5)
    assert found.indices.shape == (2, 2)
    np.testing.assert_allclose(found.distances, 1)


def test_directions_of_huge_features_do_not_overflow() -> None:
    rows = directions(np.array([[3e38, 3e38], [1e-38, 0.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]], atol=1e-6)
