"""Images that stand in the data more than once: byte for byte, compressed or scaled again, or mirrored.

Candidates are nearest neighbours by coarse looks; each pair is then compared pixel by pixel, as small thumbnails. Two
tests can make it a pair of near-duplicates, and either is meant to err on the side of silence:

- Every pixel agrees within :data:`MOST_DIFFERENCE` of the image's own deviation. The 70,000 digits of MNIST are as
  much alike as different images can be: the closest two of them differ by 0.46.
- Their fine detail correlates, if need be after a shift by a pixel. How far different images of the same data can
  get is measured on pairs that cannot be copies: an image and the nearest mirrored or upside-down one. Only what is
  far above that counts, and where different images come close to copies (plain drawings), the test is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tintype.data.likeness import LEAST_CONTRAST, SIDE, Looks, mirror_signs, normalised, upside_down_signs
from tintype.data.parallel import in_slices
from tintype.records import silent

MOST_DIFFERENCE = 0.4
"""Largest difference of two pixels of normalised thumbnails of copies, in standard deviations of the image."""
MOST_TINT, MOST_TINT_ANYWHERE = 20.0, 80.0
"""Largest difference of the colour differences red - green and blue - green of copies in grey levels, in the mean
and at any pixel of a thumbnail: a hard compression of a 32-pixel photo stays below."""
LEAST_CORRELATION = 0.75
"""Correlation of fine detail below which images are never taken for copies."""
_MOST_LEVEL = 40.0  # difference of the mean grey levels
_MOST_RATIO = 1.5  # of the contrasts
_NEIGHBOURS = 8
_NEAREST, _FARTHEST = 0.06, 0.3
_SEARCHED_FULLY = 20_000  # images
_ASKED_AT_ONCE = 50_000
_MOST_PAIRS = 200_000
_PAIRS_AT_ONCE = 512
DUPLICATES_VERSION = 1
"""Raised whenever other copies would be found among the same images."""
_SAMPLE = 1000
_SLICE = 64
_DETAIL_SIDE = 32
_DETAIL_BLUR = 2.0
_MIDDLE_SLACK = np.float32(0.1)
_STRANGERS_ALIKE = 0.9
_MARGIN = 0.45


@dataclass(frozen=True)
class Duplicates:
    """Which of M images are copies of each other. All numbers are places in the given rows.

    Attributes:
        first: Place of the first image with the same bytes (its own where there is none), int64, shape (M,).
        pairs: Near-duplicates among the first ones, each pair once, the smaller place first; int64, shape (P, 2).
        is_mirrored: Whether the second image of the pair is mirrored, shape (P,).
        is_close: Whether all pixels of the pair agree, not only their detail, shape (P,).
    """

    first: NDArray[np.int64]
    pairs: NDArray[np.int64]
    is_mirrored: NDArray[np.bool_]
    is_close: NDArray[np.bool_]

    @property
    def is_first(self) -> NDArray[np.bool_]:
        """Images that are no copy of one before them, shape (M,)."""
        is_first: NDArray[np.bool_] = self.first == np.arange(len(self.first))
        is_first[self.pairs[:, 1]] = False
        return is_first


@dataclass(frozen=True)
class _Search:
    """What candidates are searched in: distinct images with something in them."""

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    spectrum: NDArray[np.float32]
    tree: cKDTree


def find_duplicates(
    images_NHWC: NDArray[np.uint8],
    rows: NDArray[np.int64],
    content_hash: NDArray[np.uint64],
    looks: Looks,
) -> Duplicates:
    """Find the copies among some rows of a mapped array.

    Images of an even or evenly shaded ground are compared by their bytes alone.

    Args:
        images_NHWC: uint8, shape (N, S, S, C).
        rows: Which images, shape (M,).
        content_hash: Hashes of the files of all images, shape (N,).
        looks: What :func:`tintype.data.likeness.measure` found for these rows.
    """
    _, first_of, group = np.unique(content_hash[rows], return_index=True, return_inverse=True)
    first = first_of[group].astype(np.int64)
    places = np.flatnonzero((first == np.arange(len(rows))) & (looks.relief >= LEAST_CONTRAST))
    if len(places) < 2:
        return Duplicates(first, np.empty((0, 2), np.int64), np.empty(0, np.bool_), np.empty(0, np.bool_))
    spectrum = looks.spectrum[places]
    # Many equal points, as of one image compressed a thousand times, would make a balanced tree quadratic.
    search = _Search(images_NHWC, rows[places], spectrum, cKDTree(spectrum, balanced_tree=False))
    radius, needed = _radius(search), _needed_correlation(search)
    pairs, is_close = _copies(search, _neighbours(search, radius), needed)
    mirrored, is_close_mirrored = _copies(search, _neighbours(search, radius, mirror_signs()), needed, is_mirrored=True)
    # A symmetric image is its own mirror image; one finding of a pair is enough.
    known = set(map(tuple, pairs.tolist()))
    is_new = np.array([pair not in known for pair in map(tuple, mirrored.tolist())], dtype=np.bool_)
    return Duplicates(
        first,
        places[np.concatenate([pairs, mirrored[is_new]])],
        np.repeat([False, True], [len(pairs), int(is_new.sum())]),
        np.concatenate([is_close, is_close_mirrored[is_new]]),
    )


def _radius(search: _Search) -> float:
    """How far to search: less far than the eighth neighbour usually is, so that dense data bring no flood.

    Much data are searched less far, which keeps the time from growing with their square: copies that were compressed
    or scaled again lie within the least distance; only cropped ones are lost.
    """
    n = len(search.rows)
    distances, _ = search.tree.query(search.spectrum[_evenly(n, _SAMPLE // 2)], k=[min(_NEIGHBOURS + 1, n)])
    farthest = _FARTHEST * min(1.0, (_SEARCHED_FULLY / n) ** 0.5)
    return float(max(_NEAREST, min(0.7 * np.median(distances), farthest)))


def _neighbours(search: _Search, radius: float, signs: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
    """Pairs (a, b) with a < b of neighbours within the radius, the nearest first; signs reflect the first image."""
    n = len(search.rows)
    codes, distances = [], []
    for start in range(0, n, _ASKED_AT_ONCE):
        asked = search.spectrum[start : start + _ASKED_AT_ONCE]
        near, others = search.tree.query(
            asked if signs is None else asked * signs,
            k=range(1, min(_NEIGHBOURS + 1, n) + 1),
            distance_upper_bound=radius,
            workers=-1,
        )
        ours = np.broadcast_to(np.arange(start, start + len(asked))[:, None], others.shape)
        is_pair = (others < n) & (others != ours)
        codes.append((np.minimum(ours, others) * n + np.maximum(ours, others))[is_pair])
        distances.append(near[is_pair])
    pairs, once = np.unique(np.concatenate(codes), return_index=True)
    nearest = np.argsort(np.concatenate(distances)[once], kind="stable")[:_MOST_PAIRS]
    return np.stack(np.divmod(pairs[nearest], n), axis=1).astype(np.int64)


def _needed_correlation(search: _Search) -> float:
    """How alike the detail of two images must be for them to be copies; above 1 where detail proves nothing."""
    sample = _evenly(len(search.rows), _SAMPLE)
    scores = []
    ours = _thumbnails(search, sample, SIDE)
    for signs, axis in ((mirror_signs(), 2), (upside_down_signs(), 1)):
        _, neighbours = search.tree.query(search.spectrum[sample] * signs, k=2)
        # The nearest one, unless that is the image itself: a symmetric one.
        other = np.where(neighbours[:, 0] == sample, neighbours[:, 1], neighbours[:, 0])
        pairs = np.stack([sample, other], axis=1)
        theirs = _thumbnails(search, other, SIDE)
        strangers = pairs[~_pixels_agree(ours, np.flip(theirs, axis))]  # some data do hold mirrored copies
        if len(strangers):
            one, two = (_detail_thumbnails(search, strangers[:, side]) for side in (0, 1))
            scores.append(_detail_correlation(one, np.flip(two, axis)))
    likeness = np.concatenate(scores) if scores else np.ones(1, np.float32)
    most_alike = float(np.quantile(likeness, 0.995))
    if most_alike >= _STRANGERS_ALIKE:
        return 2.0
    # Few strangers may not have shown how alike they can be.
    margin = _MARGIN * min(1.0, (len(likeness) / _SAMPLE) ** 0.5)
    return float(max(LEAST_CORRELATION, 1 - margin * (1 - most_alike)))


def _copies(
    search: _Search, candidates: NDArray[np.int64], needed: float, is_mirrored: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The candidates that pass one of the two tests, shape (P, 2), and whether it was the first test."""
    is_copy, is_close = np.zeros((2, len(candidates)), np.bool_)
    for start in range(0, len(candidates), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        pairs = candidates[part]
        ours, theirs = (_thumbnails(search, pairs[:, side], SIDE) for side in (0, 1))
        theirs = np.flip(theirs, axis=2) if is_mirrored else theirs
        is_close[part] = is_copy[part] = _pixels_agree(ours, theirs)
        unsure = np.flatnonzero(~is_close[part] & _have_same_tint(ours, theirs))
        if needed <= 1 and len(unsure):
            ours, theirs = (_detail_thumbnails(search, pairs[unsure, side]) for side in (0, 1))
            theirs = np.flip(theirs, axis=2) if is_mirrored else theirs
            is_copy[start + unsure] = _detail_correlation(ours, theirs) >= needed
    return candidates[is_copy], is_close[is_copy]


def _pixels_agree(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether thumbnails of shape (P, SIDE, SIDE, C) agree everywhere but for a little brightness and contrast.

    The middle has to agree by its own deviation too, or a frame would make any two framed pictures alike.
    """
    agree = _have_same_tint(ours, theirs)
    for edge in (0, SIDE // 4):
        side = SIDE - 2 * edge
        grey, other_grey = (_grey(images[:, edge : edge + side, edge : edge + side]) for images in (ours, theirs))
        (one, contrast), (other, other_contrast) = normalised(grey), normalised(other_grey)
        difference = np.abs(one - other).max(axis=1) * side  # a unit vector of side x side pixels deviates by 1 / side
        level = np.abs(grey.mean(axis=(1, 2)) - other_grey.mean(axis=(1, 2)))
        contrasts = [np.maximum(both, LEAST_CONTRAST) for both in (contrast, other_contrast)]
        ratio = np.maximum(*contrasts) / np.minimum(*contrasts)
        agree &= (difference <= MOST_DIFFERENCE) & (level <= _MOST_LEVEL) & (ratio <= _MOST_RATIO)
    return agree


def _thumbnails(search: _Search, places: NDArray[np.int64], side: int) -> NDArray[np.float32]:
    """float32, shape (P, side, side, C)."""
    distinct, where = np.unique(places, return_inverse=True)
    rows = search.rows[distinct]
    small = np.empty((len(rows), side, side, search.images.shape[3]), np.uint8)

    def work(start: int, stop: int, is_stopped: Callable[[], bool]) -> int:
        if is_stopped():
            return 0
        for place in range(start, stop):
            resized = cv2.resize(search.images[rows[place]], (side, side), interpolation=cv2.INTER_AREA)
            small[place] = resized.reshape(side, side, -1)
        return stop - start

    in_slices(len(rows), _SLICE, work, "", silent)
    return small[where].astype(np.float32)


def _grey(images_NHWC: NDArray[np.float32]) -> NDArray[np.float32]:
    if images_NHWC.shape[3] == 1:
        return images_NHWC[..., 0]
    return images_NHWC @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def _have_same_tint(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.bool_]:
    if ours.shape[3] == 1:
        return np.ones(len(ours), np.bool_)
    tints = [images[..., [0, 2]] - images[..., [1]] for images in (ours, theirs)]
    difference = np.abs(tints[0] - tints[1])
    in_mean, anywhere = difference.mean(axis=(1, 2, 3)), difference.max(axis=(1, 2, 3))
    return np.asarray((in_mean <= MOST_TINT) & (anywhere <= MOST_TINT_ANYWHERE))


def _detail_thumbnails(search: _Search, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Thumbnails without what a blur leaves of them: edges and texture; float32, shape (P, s, s)."""
    side = min(_DETAIL_SIDE, search.images.shape[1])
    grey = _grey(_thumbnails(search, places, side))
    return np.stack([image - cv2.GaussianBlur(image, (0, 0), _DETAIL_BLUR) for image in grey])


def _detail_correlation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The best correlation of two sets of detail thumbnails over shifts by at most a pixel, shape (P,).

    The middle has to correlate about as well as the whole, or a frame would make any two framed pictures alike.
    """
    side = ours.shape[1]
    quarter = side // 4
    best = np.full(len(ours), -1, np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            whole, middle = (
                _correlation(
                    ours[:, edge : side - edge, edge : side - edge],
                    theirs[:, edge + down : side - edge + down, edge + right : side - edge + right],
                )
                for edge in (1, max(1, quarter))
            )
            best = np.maximum(best, np.minimum(whole, middle + _MIDDLE_SLACK))
    return best


def _correlation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    least = np.float32(ours[0].size)  # detail of less than a grey level is noise
    powers = [np.maximum(np.square(images).sum(axis=(1, 2)), least) for images in (ours, theirs)]
    return np.asarray(np.einsum("nyx,nyx->n", ours, theirs) / np.sqrt(powers[0] * powers[1]))


def _evenly(n: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
