"""Nearest neighbours among the features of images, by cosine distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK_VALUES = 4_000_000  # distances held at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest references of each query, the nearest first.

    Attributes:
        indices: Positions among the references, int64, shape (Q, k).
        distances: 1 minus the cosine of the angle between the features, 0 to 2, float32, shape (Q, k).
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]


def directions(features_NF: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features scaled to length 1, so that their inner products are cosines; features that are all 0 stay 0."""
    features_NF = np.asarray(features_NF, dtype=np.float32)
    # Divided by the largest value first, so that no square overflows.
    largest = np.abs(features_NF).max(axis=1, keepdims=True, initial=0.0)
    scaled = features_NF / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def nearest(queries_QF: NDArray[np.floating], references_RF: NDArray[np.floating], count: int) -> Neighbours:
    """Find the nearest references of each query by comparing it with all of them.

    Args:
        queries_QF: Features, shape (Q, F).
        references_RF: Features, shape (R, F), R at least 1.
        count: How many are wanted; fewer are given where there are fewer references.
    """
    queries_QF, references_RF = directions(queries_QF), directions(references_RF)
    count = min(count, len(references_RF))
    indices = np.empty((len(queries_QF), count), dtype=np.int64)
    distances = np.empty((len(queries_QF), count), dtype=np.float32)
    rows = max(1, _BLOCK_VALUES // len(references_RF))
    for start in range(0, len(queries_QF), rows):
        part = slice(start, start + rows)
        away_BR = 1 - queries_QF[part] @ references_RF.T
        found = np.argpartition(away_BR, count - 1, axis=1)[:, :count]
        away = np.take_along_axis(away_BR, found, axis=1)
        order = np.lexsort((found, away), axis=1)
        indices[part] = np.take_along_axis(found, order, axis=1)
        distances[part] = np.maximum(np.take_along_axis(away, order, axis=1), 0)
    return Neighbours(indices, distances)
