"""What a shortcut sees of an image: its colours, a blur of it, or its border, as a few hundred numbers.

Each is a pure function of the decoded image, so small that a linear classifier of it is fitted in a fraction of a
second. None of them can see a shape in the middle of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tintype.data.parallel import in_slices
from tintype.records import OnProgress, silent

BLURRED_SIDE = 8
LEAST_BLUR = 3
"""The files must have this many times as many pixels a side, or what is left of them is no blur."""

BORDER_SHARE = 0.08
"""Width of the border as a share of the image's side."""

STRIP_PLACES = 16
"""Places along each side of the border."""

COLOUR_LEVELS, GREY_LEVELS = 6, 32
SAMPLED_SIDE = 64
"""Of a larger image every so many-th pixel is looked at that about this many a side are left."""

MOST_TINT = 1.0
"""Mean difference of the channels in grey levels up to which an image is grey: what compression leaves."""

_SAMPLED = 64
_SLICE = 32


@dataclass(frozen=True)
class Shortcut:
    """A way of seeing little of an image.

    Attributes:
        name: Short identifier.
        description: What it sees, in words.
        see: From an image (S, S, C) uint8 to its features, float32, shape (F,).
    """

    name: str
    description: str
    see: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def shortcuts_for(channels: int) -> tuple[Shortcut, ...]:
    """The shortcuts that are tried on images of 1 or 3 channels."""
    tones = "grey levels" if channels == 1 else "colours"
    border = f"the outermost {100 * BORDER_SHARE:.0f} % of each side"
    return (
        Shortcut("colours", f"how often which {tones} occur", histogram),
        Shortcut("blurred", f"{BLURRED_SIDE} x {BLURRED_SIDE} pixels of the image", blurred),
        Shortcut("border", border, border_strips),
    )


def histogram(image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Square roots of the shares of each colour: 6 levels a channel, or 32 levels of grey.

    The root makes the distance of two histograms Hellinger's, which a linear classifier does better with.
    """
    height, width, channels = image_HWC.shape
    levels = [GREY_LEVELS] if channels == 1 else [COLOUR_LEVELS] * channels
    counts = cv2.calcHist([image_HWC], list(range(channels)), None, levels, [0, 256] * channels)
    return np.asarray(np.sqrt(counts.ravel() / (height * width)), dtype=np.float32)


def blurred(image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The means of 8 x 8 areas."""
    small = cv2.resize(image_HWC, (BLURRED_SIDE, BLURRED_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32).ravel()


def border_strips(image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of 16 places along each of the four sides, and each side's mean and deviation."""
    side = image_HWC.shape[0]
    width = border_width(side)
    places = min(STRIP_PLACES, side)
    lying, standing = (places, 1), (1, places)
    strips = (
        (image_HWC[:width], lying), (image_HWC[-width:], lying),
        (image_HWC[:, :width], standing), (image_HWC[:, -width:], standing),
    )  # fmt: skip
    found = []
    for strip, shape in strips:
        means = cv2.resize(strip, shape, interpolation=cv2.INTER_AREA)
        found += [means.ravel(), *(moment.ravel() for moment in cv2.meanStdDev(strip))]
    return np.concatenate(found).astype(np.float32)


def without_equal_channels(images_NHWC: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One channel of images that are grey though they have three; others as they are. No copy is made.

    Args:
        images_NHWC: uint8, shape (N, S, S, C).
        rows: Those to look at, of which at most 64 are.
    """
    if images_NHWC.shape[3] == 1:
        return images_NHWC
    for row in rows[:: max(1, len(rows) // _SAMPLED)].tolist():
        tints = images_NHWC[row].astype(np.int16) - images_NHWC[row][..., :1].astype(np.int16)
        if np.abs(tints).mean() > MOST_TINT:
            return images_NHWC
    return images_NHWC[..., :1]


def border_width(side: int) -> int:
    """Pixels of the border of an image of ``side`` pixels."""
    return max(1, round(BORDER_SHARE * side))


def see(
    shortcuts: tuple[Shortcut, ...],
    images_NHWC: NDArray[np.uint8],
    rows: NDArray[np.int64],
    on_progress: OnProgress = silent,
) -> tuple[NDArray[np.float32], ...]:
    """The features of some rows of a mapped array, for each shortcut (M, F); the array is read once, in threads.

    Args:
        shortcuts: What to look with.
        images_NHWC: uint8, shape (N, S, S, C).
        rows: Which images, shape (M,), not empty.
        on_progress: Told how many are done.
    """
    step = max(1, images_NHWC.shape[1] // SAMPLED_SIDE)

    def sampled(row: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(images_NHWC[row, ::step, ::step])

    first = sampled(rows[0])
    found = tuple(np.empty((len(rows), len(shortcut.see(first))), np.float32) for shortcut in shortcuts)

    def work(start: int, stop: int, is_stopped: Callable[[], bool]) -> int:
        if is_stopped():
            return 0
        for place in range(start, stop):
            image_HWC = sampled(rows[place])
            for shortcut, features in zip(shortcuts, found, strict=True):
                features[place] = shortcut.see(image_HWC)
        return stop - start

    in_slices(len(rows), _SLICE, work, "looking for shortcuts", on_progress)
    return found
