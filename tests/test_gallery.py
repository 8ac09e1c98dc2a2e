"""Thumbnails: the surest mistakes first, exact where images are small, small where images are large."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tintype.config import AugmentConfig, DataConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.gallery import augmented_gallery, mistake_gallery
from tintype.records import Predictions


def cache_of(folder: Path, size: int = 24) -> ImageCache:
    config = DataConfig(source=str(folder), image_size=size, color="rgb", resize="stretch")
    return build_cache(read_index(config), config)


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_the_surest_mistakes_come_first_and_are_exact(shapes_folder: Path) -> None:
    cache = cache_of(shapes_folder)
    indices = np.array([3, 50, 10, 7], dtype=np.int64)  # circle, square, circle, circle
    probabilities = np.array([[0.4, 0.6], [0.2, 0.8], [0.05, 0.95], [0.9, 0.1]], dtype=np.float32)
    paths = tuple(cache.index.paths[number] for number in indices)
    predictions = Predictions("test", cache.index.classes, paths, cache.index.labels[indices], probabilities)
    shown = mistake_gallery(cache, indices, predictions)
    assert [image.path for image in shown] == ["circle/010.png", "circle/003.png"]
    assert shown[0].caption == "is circle, taken for square (95 %)"
    np.testing.assert_array_equal(pixels(shown[0].jpeg), cache.images[10])


def test_augmented_images_are_changed_and_large_ones_small(shapes_folder: Path) -> None:
    cache = cache_of(shapes_folder, size=200)
    augment = AugmentConfig(policy="photo").resolved()
    shown = augmented_gallery(cache, np.arange(40, dtype=np.int64), augment, seed=0)
    assert len(shown) == 12
    assert {image.media_type for image in shown} == {"image/jpeg"}
    assert pixels(shown[0].jpeg).shape == (160, 160, 3)
    again = augmented_gallery(cache, np.arange(40, dtype=np.int64), augment, seed=0)
    assert shown == again
    assert not augmented_gallery(cache, np.arange(4), AugmentConfig(policy="none").resolved(), seed=0)
