"""Images that stand out: blank ones, extreme shapes, small ones, mixed pixel modes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tintype.data.cache import ImageCache
from tintype.data.index import counted, shown
from tintype.data.likeness import LEAST_CONTRAST
from tintype.records import Finding

EXTREME_ASPECT = 3.0
"""Longer over shorter side from which on a shape is called extreme."""
_MOST_EVIDENCE = 24
_VISIBLE = 8  # grey levels
_BLANK_SHARE = 0.002  # of the pixels


def blank_images(cache: ImageCache, rows: NDArray[np.int64], relief: NDArray[np.float32]) -> list[Finding]:
    """Images in which hardly any pixel differs visibly from the others.

    Args:
        cache: The images.
        rows: Those to look at, shape (M,).
        relief: Of :class:`tintype.data.likeness.Looks`, shape (M,); only images with hardly any are read.
    """
    blank = [row for row in rows[relief < LEAST_CONTRAST].tolist() if _is_blank(cache.images[row])]
    if not blank:
        return []
    return [
        Finding(
            "blank-images",
            "warning",
            f"{counted(len(blank), 'image')} with nothing to see: all pixels are the same, or nearly",
            _names(cache, blank),
            "Nothing can be learned from them, and each counts as an image of its class. Remove them.",
        )
    ]


def odd_shapes(cache: ImageCache, rows: NDArray[np.int64]) -> list[Finding]:
    """Images of extreme aspect ratio among others, and images that have to be enlarged."""
    findings = []
    widths, heights = cache.widths[rows].astype(float), cache.heights[rows].astype(float)
    longer, shorter = np.maximum(widths, heights), np.maximum(1, np.minimum(widths, heights))
    is_extreme = longer / shorter >= EXTREME_ASPECT
    if is_extreme.any() and np.median(longer / shorter) < EXTREME_ASPECT / 1.5:
        effect = {"crop": "cut off most of", "stretch": "distort", "pad": "shrink"}[cache.geometry.resize]
        size = cache.geometry.size
        findings.append(
            Finding(
                "extreme-shapes",
                "info",
                f"{counted(int(is_extreme.sum()), 'image')} at least {EXTREME_ASPECT:g} times as long as wide",
                _sizes(cache, rows[is_extreme]),
                f"Bringing them to {size}x{size} pixels by {cache.geometry.resize} will {effect} them. Look whether "
                "they belong to the data.",
            )
        )
    is_small = 2 * longer < cache.geometry.size
    if is_small.any():
        findings.append(
            Finding(
                "small-images",
                "info",
                f"{int(is_small.sum()):,} of {counted(len(rows), 'image')} smaller than half of the image size of "
                f"{cache.geometry.size} pixels",
                _sizes(cache, rows[is_small]),
                "They are enlarged and look blurred beside the others. A smaller --image-size loses little.",
            )
        )
    return findings


def mixed_modes(cache: ImageCache, rows: NDArray[np.int64]) -> list[Finding]:
    """Files of several pixel modes, all brought to the same one."""
    modes, counts = np.unique(np.array([cache.modes[row] for row in rows.tolist()]), return_counts=True)
    if len(modes) < 2:
        return []
    order = np.argsort(-counts, kind="stable")
    target = "grey" if cache.geometry.channels == 1 else "RGB"
    return [
        Finding(
            "mixed-modes",
            "info",
            f"files of {counted(len(modes), 'pixel mode')}, all read as {target}",
            tuple(f"{modes[at]}: {counted(int(counts[at]), 'image')}" for at in order[:_MOST_EVIDENCE]),
            "Nothing needs to be done, unless the mode goes with the class.",
        )
    ]


def _is_blank(image_HWC: NDArray[np.uint8]) -> bool:
    levels = image_HWC.reshape(-1, image_HWC.shape[-1]).astype(np.int16)
    differs = np.abs(levels - np.median(levels, axis=0)).max(axis=1) > _VISIBLE
    return float(differs.mean()) <= _BLANK_SHARE


def _names(cache: ImageCache, rows: list[int]) -> tuple[str, ...]:
    return tuple(shown(cache.index.paths[row]) for row in rows[:_MOST_EVIDENCE])


def _sizes(cache: ImageCache, rows: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(
        f"{shown(cache.index.paths[row])}: {cache.widths[row]}x{cache.heights[row]}"
        for row in rows[:_MOST_EVIDENCE].tolist()
    )
