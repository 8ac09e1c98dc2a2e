"""Probabilities after their logits are divided by a temperature. No scipy: labelling images needs nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def apply_temperature(probabilities_NK: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Probabilities after their logits are divided by ``temperature``; the order of the classes stays.

    Args:
        probabilities_NK: Shape (N, K), rows sum to 1.
        temperature: Above 0.

    Raises:
        ValueError: ``temperature`` is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0. Got {temperature} instead.")
    scaled_NK: NDArray[np.float32] = np.exp(log_probabilities(probabilities_NK) / np.float32(temperature))
    scaled_NK /= scaled_NK.sum(axis=1, keepdims=True)
    return scaled_NK


def log_probabilities(probabilities_NK: NDArray[np.floating]) -> NDArray[np.float32]:
    """Logits up to a constant a row, the largest of each row 0, shape (N, K)."""
    logits_NK: NDArray[np.float32] = np.log(np.maximum(probabilities_NK, SMALLEST_PROBABILITY).astype(np.float32))
    logits_NK -= logits_NK.max(axis=1, keepdims=True)
    return logits_NK
