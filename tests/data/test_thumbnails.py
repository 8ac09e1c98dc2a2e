"""Small pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from shapes import textures

from tintype.data.thumbnails import make_thumbnail


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_kept_exactly(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(28, 28, channels), dtype=np.uint8)
    thumbnail = make_thumbnail(image, 40)
    assert (thumbnail.media_type, thumbnail.width, thumbnail.height) == ("image/png", 28, 28)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail.data))) as picture:
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


def test_large_ones_are_scaled_down_as_jpeg() -> None:
    image = textures(1, side=200)[0][:, :100]
    thumbnail = make_thumbnail(image, 40)
    assert (thumbnail.media_type, thumbnail.width, thumbnail.height) == ("image/jpeg", 20, 40)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail.data))) as picture:
        assert picture.format == "JPEG"
        blocks = image.reshape(40, 5, 20, 5, 3).mean((1, 3))
        assert np.abs(np.asarray(picture, dtype=float) - blocks).mean() < 12


def test_a_single_row_of_pixels_keeps_its_shape() -> None:
    assert make_thumbnail(np.zeros((1, 9, 1), np.uint8), 5).width == 5
