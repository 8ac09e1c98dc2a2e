"""The resize inside an exported file, beside the one that decodes images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from tintype.data.pixels import Geometry, as_mode, shaped
from tintype.serving.resize import IMAGES, RESIZED, resize_model

Resize = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

POLICIES = ("stretch", "crop", "pad")


def resize_of(geometry: Geometry) -> Resize:
    """The graph as a function from (N, H, W, 3) to (N, S, S, C)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = resize_model(geometry).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([RESIZED], {IMAGES: images})[0].transpose(0, 2, 3, 1)


def pillow(pixels_HW3: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    height, width = pixels_HW3.shape[:2]
    image = as_mode(Image.fromarray(pixels_HW3), geometry.channels)
    return shaped(image, geometry, 1, (0.0, 0.0, float(width), float(height)))


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Enlarged and shrunk a little; shrunk so much that boxes are averaged first, with boxes cut off at the end, with boxes
# of a number of pixels that is a power of two and one that is not; along one axis only; tall enough for Pillow 13 to
# begin with the columns; one pixel high; with an odd difference of the sides, so that a crop begins at half a pixel.
SIZES = [
    (7, 9), (20, 21), (31, 24), (40, 61), (100, 96), (97, 101), (192, 288), (145, 300), (24, 200), (230, 24),
    (60, 26), (1, 50), (50, 1), (333, 500), (26, 25),
]  # fmt: skip


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_graph_gives_pillows_pixels(policy: str, channels: int) -> None:
    geometry = Geometry(24, channels, policy)  # type: ignore[arg-type]
    resize, values, apart = resize_of(geometry), 0, 0
    for height, width in SIZES:
        pixels = noise(height, width)
        difference = np.abs(resize(pixels[None])[0].astype(int) - pillow(pixels, geometry))
        assert difference.max() <= 1, (height, width, difference.max())
        assert (difference > 0).mean() <= 0.005, (height, width)
        values, apart = values + difference.size, apart + int((difference > 0).sum())
    assert apart / values < 5e-4  # in noise; where a sum lies on a half but for the last bits


@pytest.mark.parametrize("policy", POLICIES)
def test_an_image_of_the_models_own_size_is_left_alone(policy: str) -> None:
    pixels = noise(33, 33)
    np.testing.assert_array_equal(resize_of(Geometry(33, 3, policy))(pixels[None])[0], pixels)  # type: ignore[arg-type]


def test_own_size_in_grey_is_turned_grey_as_pillow_does() -> None:
    pixels = noise(33, 33)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    np.testing.assert_array_equal(resize_of(Geometry(33, 1, "crop"))(pixels[None])[0], expected)


def test_images_in_a_batch_do_not_touch_each_other() -> None:
    resize = resize_of(Geometry(24, 3, "pad"))
    images = np.stack([noise(70, 150, seed) for seed in range(4)])
    alone = np.concatenate([resize(images[number : number + 1]) for number in range(4)])
    np.testing.assert_array_equal(resize(images), alone)


def test_a_smooth_picture_keeps_its_colours() -> None:
    """Against Pillow alone a mistake that both share would not show: a plain colour must stay what it is."""
    plain = np.full((1, 200, 330, 3), (10, 128, 250), np.uint8)
    for policy in POLICIES:
        resized = resize_of(Geometry(24, 3, policy))(plain)  # type: ignore[arg-type]
        assert (resized == (10, 128, 250)).all(), policy
