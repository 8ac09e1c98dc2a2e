"""Whether an exported model says what its run says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.errors import RunError

SAME_IMAGE = 1e-4
"""Largest difference of a probability where both are given the same image of the model's own size: rounding in fp32."""

OWN_RESIZE, OWN_RESIZE_MEDIAN = 5e-3, 1e-4
"""The same, and its median over the images, where the exported file resizes the image by itself."""

NEAR_TIE = 2 * SAME_IMAGE
"""Two classes whose probabilities are closer than this may change places by what probabilities may differ."""

SAME_MAP = 1e-3
"""Largest difference of a place of a map, 0 to 1, in half of the images."""


@dataclass(frozen=True)
class Agreement:
    """How an exported model's probabilities compare with the run's on the same images.

    The difference of an image is the largest of any of its classes.

    Attributes:
        images: How many were compared.
        largest: Largest difference; NaN where one of the two gives NaN.
        median: Median of the images' differences.
        near_ties: Images whose two most probable classes are closer than :data:`NEAR_TIE` in the run.
        other_class: Images whose most probable class differs and that are no near tie.
        worst: Position of the image with the largest difference.
    """

    images: int
    largest: float
    median: float
    near_ties: int
    other_class: int
    worst: int


def compare(run_NK: NDArray[np.float32], exported_NK: NDArray[np.float32]) -> Agreement:
    """Compare probabilities of the same images, at least one, both of shape (N, K)."""
    apart_N = np.abs(run_NK.astype(np.float64) - exported_NK).max(axis=1)
    two_N2 = np.partition(run_NK, -2, axis=1)[:, -2:]
    is_tie_N = np.abs(two_N2[:, 1] - two_N2[:, 0]) < NEAR_TIE
    differs_N = run_NK.argmax(axis=1) != exported_NK.argmax(axis=1)
    return Agreement(
        images=len(run_NK),
        largest=float(apart_N.max()),
        median=float(np.median(apart_N)),
        near_ties=int(is_tie_N.sum()),
        other_class=int((differs_N & ~is_tie_N).sum()),
        worst=int(apart_N.argmax()),
    )


def require_same_answers(found: Agreement, what: str) -> None:
    """Refuse an exported model that differs from its run on images of its own size.

    Args:
        found: From :func:`compare`.
        what: The file, for the message.

    Raises:
        RunError: A probability differs by more than rounding, or a class that is no near tie.
    """
    if not found.largest <= SAME_IMAGE:
        raise RunError(
            f"the export failed: a probability of {what} differs from the run's by {found.largest:.2g} on the same "
            f"image, more than {SAME_IMAGE:g} (of {found.images:,} images). Nothing was written."
        )
    if found.other_class:
        raise RunError(
            f"the export failed: {what} gives another class than the run for {found.other_class:,} of "
            f"{found.images:,} images. Nothing was written."
        )


def require_same_resize(found: Agreement, what: str) -> None:
    """Refuse an exported model whose own resize differs from the run's by more than a few grey levels' rounding.

    Args:
        found: From :func:`compare`, of images of their original sizes.
        what: The file, for the message.

    Raises:
        RunError: It does.
    """
    if not (found.largest <= OWN_RESIZE and found.median <= OWN_RESIZE_MEDIAN):
        raise RunError(
            f"the export failed: resized by {what}, images of their original size give probabilities that differ from "
            f"the run's by up to {found.largest:.2g} (median {found.median:.2g}), more than {OWN_RESIZE:g} (median "
            f"{OWN_RESIZE_MEDIAN:g}; {found.images:,} images). Nothing was written."
        )


def require_same_maps(run_Nhw: NDArray[np.float32] | None, exported_Nhw: NDArray[np.float32] | None) -> None:
    """Refuse maps that differ from the run's.

    Half of the images decide: where no place speaks for a class, what is left is noise, and each map is scaled by its
    largest value.

    Raises:
        RunError: They do.
    """
    if run_Nhw is None or exported_Nhw is None or run_Nhw.shape != exported_Nhw.shape:
        raise RunError("the exported maps have another shape than the run's")
    apart = float(np.median(np.abs(run_Nhw - exported_Nhw).max(axis=(1, 2))))
    if not apart <= SAME_MAP:
        raise RunError(f"the exported maps differ from the run's by {apart:.2g}, more than {SAME_MAP:g}")
