"""What shortcuts see, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tintype.training.shortcut_features import (
    BORDER_SHARE,
    COLOUR_LEVELS,
    blurred,
    border_strips,
    border_width,
    histogram,
    see,
    shortcuts_for,
    without_equal_channels,
)


def image(side: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("side", [16, 64, 130])
def test_the_histogram_is_numpys(side: int) -> None:
    pixels = image(side, 3)
    counts, _ = np.histogramdd(pixels.reshape(-1, 3), bins=COLOUR_LEVELS, range=[(0, 256)] * 3)
    np.testing.assert_allclose(histogram(pixels), np.sqrt(counts.ravel() / side**2), atol=1e-6)


def test_the_grey_histogram_is_numpys() -> None:
    pixels = image(32, 1)
    counts, _ = np.histogram(pixels, bins=32, range=(0, 256))
    np.testing.assert_allclose(histogram(pixels), np.sqrt(counts / 32**2), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_blur_is_the_mean_of_areas(channels: int) -> None:
    pixels = image(64, channels)
    means = pixels.reshape(8, 8, 8, 8, channels).mean(axis=(1, 3))
    np.testing.assert_allclose(blurred(pixels), means.ravel(), atol=0.51)  # rounded to grey levels


@pytest.mark.parametrize("channels", [1, 3])
def test_the_border_sees_nothing_but_the_border(channels: int) -> None:
    pixels = image(48, channels)
    width = border_width(48)
    assert width == round(48 * BORDER_SHARE)
    seen = border_strips(pixels)
    inside = pixels.copy()
    inside[width:-width, width:-width] = 255 - inside[width:-width, width:-width]
    np.testing.assert_array_equal(border_strips(inside), seen)
    corner = pixels.copy()
    corner[0, 0] = 255 - corner[0, 0]
    assert (border_strips(corner) != seen).any()


def test_the_strips_hold_means_and_moments_of_each_side() -> None:
    pixels = image(64, 1)
    top = pixels[: border_width(64), :, 0]
    seen = border_strips(pixels).reshape(4, -1)
    assert seen.shape[1] == 16 + 2
    np.testing.assert_allclose(seen[0, :16], top.reshape(len(top), 16, 4).mean(axis=(0, 2)), atol=0.51)
    np.testing.assert_allclose(seen[0, 16:], [top.mean(), top.std()], atol=1e-3)
    right = pixels[:, -border_width(64) :, 0]
    np.testing.assert_allclose(seen[3, :16], right.reshape(16, 4, -1).mean(axis=(1, 2)), atol=0.51)
    np.testing.assert_allclose(seen[3, 16:], [right.mean(), right.std()], atol=1e-3)


def test_grey_images_with_three_channels_lose_two() -> None:
    grey = np.repeat(np.stack([image(16, 1, seed) for seed in range(100)]), 3, axis=3)
    rows = np.arange(100)
    assert without_equal_channels(grey, rows).shape == (100, 16, 16, 1)
    assert np.shares_memory(without_equal_channels(grey, rows), grey)
    tinted = grey.copy()
    tinted[:, :, :, 2] //= 2
    assert without_equal_channels(tinted, rows) is tinted
    assert without_equal_channels(grey[..., :1], rows).shape[3] == 1


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (8, 3), (24, 3), (100, 1)])
def test_all_images_are_seen_alike_in_threads(side: int, channels: int) -> None:
    images = np.stack([image(side, channels, seed) for seed in range(70)])
    rows = np.array([69, 3, 3, 0, *range(10, 60)])
    shortcuts = shortcuts_for(channels)
    for shortcut, found in zip(shortcuts, see(shortcuts, images, rows), strict=True):
        np.testing.assert_array_equal(found, np.stack([shortcut.see(images[row]) for row in rows.tolist()]))
