"""What images look like, in numbers small enough to compare all of them with all.

Every image becomes a grey thumbnail of 16x16 pixels with mean 0 and deviation 1, so that compression, scaling and a
change of brightness or contrast hardly alter it. Its lowest frequencies are the coordinates in which neighbours are
searched; its mirror image has the same ones but for known signs. A 64-bit hash would not do for this: handwritten
digits share hashes by the thousand, while these coordinates keep apart what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tintype.data.parallel import in_slices
from tintype.records import OnProgress, silent

SIDE = 16
"""Pixels along a side of a thumbnail."""
FREQUENCIES = 4
"""Lowest frequencies of each axis that are kept."""
LEAST_CONTRAST = 4.0
"""Grey levels; a thumbnail that deviates less is compared as if it deviated this much."""
LOOKS_VERSION = 1
"""Raised whenever the same images would be measured differently."""
_SLICE = 512


@dataclass(frozen=True)
class Looks:
    """What M images look like.

    Attributes:
        spectrum: Lowest frequencies of the thumbnails without the constant one, of unit vectors; float32, shape
            (M, 15). The distance of two rows is at most that of the thumbnails.
        relief: Standard deviation of the thumbnails in grey levels from an even or evenly shaded ground, float32,
            shape (M,). Images with hardly any are alike without being copies: skies, blank pages.
    """

    spectrum: NDArray[np.float32]
    relief: NDArray[np.float32]


def measure(images_NHWC: NDArray[np.uint8], rows: NDArray[np.int64], on_progress: OnProgress = silent) -> Looks:
    """Measure the given rows of a mapped array; it is read once, in slices.

    Args:
        images_NHWC: uint8, shape (N, S, S, C) with C 1 or 3.
        rows: Which images, shape (M,).
        on_progress: Told how many are done.
    """
    basis, slopes = _basis(), _slopes()
    spectrum = np.zeros((len(rows), basis.shape[1]), np.float32)
    relief = np.zeros(len(rows), np.float32)

    def work(start: int, stop: int, is_stopped: Callable[[], bool]) -> int:
        if is_stopped():
            return 0
        grey = np.stack([thumbnail(images_NHWC[row], SIDE) for row in rows[start:stop]]).astype(np.float32)
        vectors, contrast = normalised(grey)
        spectrum[start:stop] = vectors @ basis
        # Of a unit vector's power, what its two slopes do not explain.
        unexplained = np.square(vectors).sum(axis=1) - np.square(vectors @ slopes).sum(axis=1)
        relief[start:stop] = np.maximum(contrast, LEAST_CONTRAST) * np.sqrt(np.maximum(unexplained, 0))
        return stop - start

    in_slices(len(rows), _SLICE, work, "looking at images", on_progress)
    return Looks(spectrum, relief)


def thumbnail(image_HWC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A grey square of ``side`` pixels, each the mean of the area that it stands for."""
    small = cv2.resize(image_HWC, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def normalised(grey_MSS: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of thumbnails, and their contrast.

    Returns:
        float32, shape (M, S * S), mean 0 and length 1 (less where there is hardly any contrast); and the standard
        deviations in grey levels, shape (M,).
    """
    vectors = grey_MSS.reshape(len(grey_MSS), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    contrast = np.sqrt(np.square(vectors).mean(axis=1))
    scale = np.maximum(contrast, LEAST_CONTRAST) * np.sqrt(np.float32(vectors.shape[1]))
    return vectors / scale[:, None], contrast


def mirror_signs() -> NDArray[np.float32]:
    """What the spectrum of an image is multiplied with to be that of its mirror image, shape (15,)."""
    return np.tile(np.where(np.arange(FREQUENCIES) % 2, -1, 1), FREQUENCIES)[1:].astype(np.float32)


def upside_down_signs() -> NDArray[np.float32]:
    """What the spectrum of an image is multiplied with to be that of the image upside down, shape (15,)."""
    return np.repeat(np.where(np.arange(FREQUENCIES) % 2, -1, 1), FREQUENCIES)[1:].astype(np.float32)


def _basis() -> NDArray[np.float32]:
    """Columns of an orthonormal cosine transform of a thumbnail, vertical frequency first; (SIDE^2, 15)."""
    places = (np.arange(SIDE) + 0.5) * (np.pi / SIDE)
    cosines = np.cos(np.outer(np.arange(FREQUENCIES), places)) * np.sqrt(2 / SIDE)
    cosines[0] /= np.sqrt(2)
    planes = np.einsum("vy,hx->yxvh", cosines, cosines)
    return np.ascontiguousarray(planes.reshape(SIDE * SIDE, -1)[:, 1:], dtype=np.float32)


def _slopes() -> NDArray[np.float32]:
    """Unit vectors of thumbnails that brighten evenly downwards and to the right, shape (SIDE^2, 2)."""
    ramp = np.arange(SIDE) - (SIDE - 1) / 2
    planes = np.stack([np.repeat(ramp, SIDE), np.tile(ramp, SIDE)], axis=1)
    return np.asarray(planes / np.linalg.norm(planes, axis=0), dtype=np.float32)
