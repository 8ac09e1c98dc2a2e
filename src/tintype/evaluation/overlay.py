"""A map of places drawn over its image."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

OPACITY = 0.75
"""How much of the colour covers the image where the map is 1; it fades with the map, so that the rest stays visible."""
LEAST_SIDE = 224
"""Smaller images are enlarged to at least so many pixels in a picture of their own."""
_GAP = 4


def overlay(image_HWC: NDArray[np.uint8], map_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image in grey, and over it the map in the colours of viridis, strong where the map is large.

    Viridis rises evenly in lightness, so it reads the same without colour vision and in print.

    Args:
        image_HWC: One or three channels.
        map_hw: In 0..1, of any size.

    Returns:
        RGB of the image's size.
    """
    height, width = image_HWC.shape[:2]
    grey = image_HWC[..., 0] if image_HWC.shape[2] == 1 else cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    heat = np.clip(cv2.resize(map_hw, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    colors = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    weight = OPACITY * heat[..., None]
    return np.asarray(np.rint(grey[..., None] * (1 - weight) + colors * weight), dtype=np.uint8)


def side_by_side(image_HWC: NDArray[np.uint8], map_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image and its overlay in one picture, small images enlarged by a whole factor.

    Args:
        image_HWC: One or three channels.
        map_hw: In 0..1, of any size.

    Returns:
        RGB, the image left and the overlay right of a white line.
    """
    factor = max(1, math.ceil(LEAST_SIDE / max(image_HWC.shape[:2])))
    enlarged = image_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
    left = np.broadcast_to(enlarged, (*enlarged.shape[:2], 3))
    gap = np.full((len(left), _GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, overlay(enlarged, map_hw)], axis=1)
