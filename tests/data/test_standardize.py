"""Mean and deviation against numpy on the whole array at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tintype.config import DataConfig
from tintype.data import standardize
from tintype.data.cache import build_cache
from tintype.data.sources import read_index
from tintype.data.standardize import pixel_statistics


@pytest.mark.parametrize("per", ["channel", "pixel"])
def test_statistics_are_numpys_and_of_the_chosen_images_alone(
    shapes_folder: Path, monkeypatch: pytest.MonkeyPatch, per: Literal["channel", "pixel"]
) -> None:
    monkeypatch.setattr(standardize, "CHUNK_BYTES", 24 * 24 * 3 * 8 * 7)  # several chunks of 7 images
    config = DataConfig(source=str(shapes_folder), image_size=24, color="rgb", resize="stretch")
    cache = build_cache(read_index(config), config)
    indices = np.arange(0, 80, 3, dtype=np.int64)
    mean, deviation = pixel_statistics(cache, indices, per)
    images = cache.images[indices].astype(np.float64) / 255
    axes: tuple[int, ...] = (0, 1, 2) if per == "channel" else (0,)
    expected_mean, expected_deviation = images.mean(axis=axes), images.std(axis=axes)
    shape = (3, 1, 1) if per == "channel" else (3, 24, 24)
    order = expected_mean.reshape(1, 1, 3) if per == "channel" else expected_mean
    assert mean.shape == deviation.shape == shape
    np.testing.assert_allclose(mean, order.transpose(2, 0, 1), atol=1e-6)
    order = expected_deviation.reshape(1, 1, 3) if per == "channel" else expected_deviation
    np.testing.assert_allclose(deviation, order.transpose(2, 0, 1), atol=1e-6)


def test_none_leaves_images_in_0_to_1(shapes_folder: Path) -> None:
    config = DataConfig(source=str(shapes_folder), image_size=24, color="grey", resize="stretch")
    cache = build_cache(read_index(config), config)
    mean, deviation = pixel_statistics(cache, np.arange(4), "none")
    assert mean.tolist() == [[[0.0]]]
    assert deviation.tolist() == [[[1.0]]]
