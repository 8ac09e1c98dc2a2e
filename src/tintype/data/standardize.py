"""Mean and deviation of the training images, which every network subtracts and divides by."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tintype.data.cache import ImageCache

SAMPLE = 20_000
"""Images measured at most, evenly spaced; the mean of so many is known to a fraction of a grey level."""

CHUNK_BYTES = 32 * 2**20


def pixel_statistics(
    cache: ImageCache, indices: NDArray[np.int64], per: Literal["none", "channel", "pixel"]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of images scaled to 0..1.

    Args:
        cache: The decoded images.
        indices: The training images; no other image may be among them.
        per: ``channel`` gives shape (C, 1, 1), ``pixel`` (C, H, W), and ``none`` zeros and ones of (C, 1, 1).

    Returns:
        Mean and deviation; a deviation of zero is left as it is, for the network to handle and report.
    """
    size, channels = cache.geometry.size, cache.geometry.channels
    if per == "none":
        return np.zeros((channels, 1, 1), np.float32), np.ones((channels, 1, 1), np.float32)
    chosen = np.sort(indices[:: max(1, -(-len(indices) // SAMPLE))])
    total = np.zeros((size, size, channels))
    squares = np.zeros((size, size, channels))
    chunk = max(1, CHUNK_BYTES // (size * size * channels * 8))
    for start in range(0, len(chosen), chunk):
        images_NHWC = cache.images[chosen[start : start + chunk]].astype(np.float64) / 255
        total += images_NHWC.sum(axis=0)
        squares += np.square(images_NHWC).sum(axis=0)
    mean_HWC, square_HWC = total / len(chosen), squares / len(chosen)
    if per == "channel":
        mean_HWC = mean_HWC.mean(axis=(0, 1), keepdims=True)
        square_HWC = square_HWC.mean(axis=(0, 1), keepdims=True)
    deviation_HWC = np.sqrt(np.maximum(square_HWC - np.square(mean_HWC), 0))
    mean, deviation = (array.transpose(2, 0, 1).astype(np.float32) for array in (mean_HWC, deviation_HWC))
    return mean, deviation
