"""Images for tests: rings and frames that are easily told apart, and textures that look like photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def make_shapes(root: Path, count: int, seed: int = 7, invert: bool = False) -> None:
    """Write class folders ``circle`` and ``square`` with ``count`` PNGs each."""
    random = np.random.default_rng(seed)
    for name in ("circle", "square"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw_shape(name, random)
            Image.fromarray(255 - pixels if invert else pixels).save(root / name / f"{number:03}.png")


def draw_shape(name: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """A noisy 24x24 RGB image of a ring or a frame at a random place and size."""
    y, x = np.mgrid[0:24, 0:24].astype(float)
    centre_y, centre_x = random.uniform(9, 15, size=2)
    radius = random.uniform(4, 8)
    if name == "circle":
        distance = np.hypot(y - centre_y, x - centre_x)
    else:
        distance = np.maximum(abs(y - centre_y), abs(x - centre_x))
    grey = np.where(abs(distance - radius) < 1.5, 200.0, 60.0) + random.normal(0, 12, size=(24, 24))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def textures(count: int, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured images with the spectrum of photos: power falls with the square of the frequency."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    waves = random.normal(size=(count, side, side)) + 1j * random.normal(size=(count, side, side))
    grey = np.fft.ifft2(waves / frequency[None], axes=(1, 2)).real
    grey *= 45 / grey.std(axis=(1, 2), keepdims=True)
    tint = random.normal(0, 12, size=(count, 1, 1, 3))
    return np.clip(grey[..., None] + 125 + tint, 0, 255).astype(np.uint8)
