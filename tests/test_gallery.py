"""Thumbnails: the surest mistakes first, exact where images are small, small where images are large."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tintype.config import AugmentConfig, DataConfig, ModelConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.evaluation.attention import attention_maps
from tintype.evaluation.overlay import overlay
from tintype.gallery import augmented_gallery, mistake_gallery
from tintype.models.build import build_network
from tintype.models.network import Network
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


def network_of(layers: str, size: int = 24) -> Network:
    torch.manual_seed(0)
    return build_network(ModelConfig(layers=layers), (3, size, size), 2)


def all_wrong(cache: ImageCache, indices: np.ndarray) -> Predictions:
    """Each image is taken for the other class, the first the surest."""
    labels = cache.index.labels[indices]
    sure = np.linspace(0.9, 0.6, len(indices))
    probabilities = np.stack([np.where(labels == 1, sure, 1 - sure), np.where(labels == 0, sure, 1 - sure)], axis=1)
    paths = tuple(cache.index.paths[number] for number in indices.tolist())
    return Predictions("test", cache.index.classes, paths, labels, probabilities.astype(np.float32))


def test_beside_a_mistake_stands_where_the_network_looked(shapes_folder: Path) -> None:
    cache, network = cache_of(shapes_folder), network_of("conv 8 3 relu\npool 2\ngap\n").train()
    indices = np.array([3, 50, 10], dtype=np.int64)
    predictions = all_wrong(cache, indices)
    shown = mistake_gallery(cache, indices, predictions, network)
    images = torch.from_numpy(np.asarray(cache.images[indices])).permute(0, 3, 1, 2)
    maps = attention_maps(network, images, predictions.predicted)
    assert isinstance(maps, np.ndarray)
    for item, number, places in zip(shown, indices, maps, strict=True):
        np.testing.assert_array_equal(pixels(item.overlay), overlay(np.asarray(cache.images[number]), places))
    assert network.training


def test_a_network_that_saw_the_negative_is_asked_about_the_negative(shapes_folder: Path) -> None:
    cache, network = cache_of(shapes_folder), network_of("conv 8 3 relu\npool 2\ngap\n")
    indices = np.array([3, 50], dtype=np.int64)
    predictions = all_wrong(cache, indices)
    inverted = np.array([False, True])
    shown = mistake_gallery(cache, indices, predictions, network, inverted=inverted)
    plain = mistake_gallery(cache, indices, predictions, network)
    assert [one.overlay == other.overlay for one, other in zip(shown, plain, strict=True)] == [True, False]
    assert [one.jpeg == other.jpeg for one, other in zip(shown, plain, strict=True)] == [True, True]


def test_a_network_without_a_map_has_pictures_alone(shapes_folder: Path) -> None:
    cache = cache_of(shapes_folder)
    indices = np.array([3, 50], dtype=np.int64)
    predictions = all_wrong(cache, indices)
    shown = mistake_gallery(cache, indices, predictions, network_of("flatten\ndense 8 relu\n"))
    assert shown == mistake_gallery(cache, indices, predictions)
    assert [item.overlay for item in shown] == ["", ""]


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
