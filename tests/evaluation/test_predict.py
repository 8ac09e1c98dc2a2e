"""Predictions are the network's own, each image once and in order; mirror and negative do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tintype.config import DataConfig, ModelConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.evaluation import predict as predict_module
from tintype.evaluation.predict import loss_and_accuracy, predict
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.records import Predictions
from tintype.runtime import start_runtime


@pytest.fixture
def parts(shapes_folder: Path) -> tuple[ImageCache, Network]:
    config = DataConfig(source=str(shapes_folder), image_size=24, color="rgb", resize="stretch")
    cache = build_cache(read_index(config), config)
    torch.manual_seed(0)
    return cache, build_network(ModelConfig(layers="conv 8 3 relu\nbn\nflatten\ndense 8 relu\n"), (3, 24, 24), 2)


def by_hand(network: Network, images_NHWC: np.ndarray) -> np.ndarray:
    network.eval()
    with torch.no_grad():
        second = torch.sigmoid(network(torch.from_numpy(images_NHWC.copy()).permute(0, 3, 1, 2)))[:, 0].numpy()
    return np.stack([1 - second, second], axis=1)


def test_every_image_once_in_the_order_given(
    parts: tuple[ImageCache, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "EVALUATION_PIXELS", 24 * 24 * 8)  # several batches, the last incomplete
    cache, network = parts
    indices = np.random.default_rng(0).permutation(80)[:21].astype(np.int64)
    done: list[int] = []
    found = predict(
        network,
        cache,
        indices,
        start_runtime("cpu", 1, 0),
        "test",
        on_progress=lambda what, now, total: done.append(now),
    )
    assert done == [8, 16, 21]
    assert found.paths == tuple(cache.index.paths[number] for number in indices)
    np.testing.assert_array_equal(found.labels, cache.index.labels[indices])
    np.testing.assert_allclose(found.probabilities, by_hand(network, cache.images[indices]), atol=1e-5)


def test_flip_average_and_negatives(parts: tuple[ImageCache, Network]) -> None:
    cache, network = parts
    indices = np.arange(6, dtype=np.int64)
    runtime = start_runtime("cpu", 1, 0)
    images = cache.images[indices]
    flipped = predict(network, cache, indices, runtime, "test", flip_average=True).probabilities
    expected = (by_hand(network, images) + by_hand(network, images[:, :, ::-1])) / 2
    np.testing.assert_allclose(flipped, expected, atol=1e-5)
    chosen = np.array([True, False, True, False, False, True])
    mixed = predict(network, cache, indices, runtime, "test", inverted=chosen).probabilities
    expected = by_hand(network, np.where(chosen[:, None, None, None], 255 - images, images))
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_no_images_give_no_rows(parts: tuple[ImageCache, Network]) -> None:
    cache, network = parts
    empty = predict(network, cache, np.zeros(0, np.int64), start_runtime("cpu", 1, 0), "test")
    assert empty.probabilities.shape == (0, 2)


def test_loss_and_accuracy_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]], dtype=np.float32)
    predictions = Predictions("test", ("a", "b"), ("x", "y", "z"), np.array([0, 1, 1]), probabilities)
    loss, accuracy = loss_and_accuracy(predictions)
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx((np.log(2) - np.log(0.9) - np.log(np.finfo(np.float32).tiny)) / 3, rel=1e-5)
