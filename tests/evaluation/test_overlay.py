"""Maps drawn over images: untouched where nothing counts, coloured where much does."""

from __future__ import annotations

import numpy as np

from tintype.evaluation.overlay import OPACITY, overlay, side_by_side


def test_places_that_do_not_count_keep_their_grey() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    drawn = overlay(grey, np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(drawn, grey.repeat(3, axis=2))


def test_the_brightest_place_is_the_yellow_of_viridis() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    drawn = overlay(image, np.ones((1, 1), np.float32))
    yellow = OPACITY * np.array([253, 231, 37])  # viridis at 1, as matplotlib has it
    assert np.abs(drawn.astype(float) - yellow).max() <= 2


def test_the_map_lies_over_its_own_part_of_the_image() -> None:
    places = np.zeros((4, 4), np.float32)
    places[1, 2] = 1
    changed = overlay(np.zeros((40, 40, 3), np.uint8), places).sum(axis=2)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert (row // 10, column // 10) == (1, 2)
    assert changed[35:, :].max() == 0  # a cubic kernel reaches two cells far


def test_an_image_stands_beside_its_overlay_and_small_ones_are_enlarged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    picture = side_by_side(image, np.zeros((7, 7), np.float32))
    assert picture.shape == (224, 224 + 4 + 224, 3)
    enlarged = np.kron(image[..., 0], np.ones((8, 8), np.uint8))
    np.testing.assert_array_equal(picture[:, :224, 0], enlarged)
    np.testing.assert_array_equal(picture[:, 228:, 2], enlarged)
    large = side_by_side(np.zeros((300, 300, 3), np.uint8), np.zeros((7, 7), np.float32))
    assert large.shape == (300, 604, 3)
