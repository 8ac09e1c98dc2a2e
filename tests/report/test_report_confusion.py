"""Confusion matrices as tables, pictures and lists of pairs."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tintype.report.confusion import MOST_IN_A_TABLE, confusion_views, heat_level


def test_small_matrices_are_tables_of_counts_and_of_shares() -> None:
    views = confusion_views([[98, 2, 0], [0, 0, 0], [1, 0, 2999]], ["a", "b", "c"])
    assert views is not None
    assert [[cell.shown for cell in row] for row in views.raw] == [
        ["98", "2", "0"],
        ["0", "0", "0"],
        ["1", "0", "2,999"],
    ]
    assert [[cell.shown for cell in row] for row in views.normalised] == [
        ["98.0", "2.0", "0"],
        ["0", "0", "0"],
        ["<0.1", "0", ">99.9"],
    ]
    assert (views.n, views.wrong, views.picture) == (3100, 3, "")
    assert views.raw[0][1].hint == "a taken for b: 2 of 100"
    assert [cell.style.split()[0] for cell in views.raw[0]] == ["right", "wrong", "none"]


def test_pairs_are_the_largest_entries_off_the_diagonal() -> None:
    random = np.random.default_rng(3)
    matrix = random.integers(0, 50, (12, 12))
    names = [f"c{i}" for i in range(12)]
    views = confusion_views(matrix.tolist(), names)
    assert views is not None
    expected = sorted((int(matrix[i, j]) for i in range(12) for j in range(12) if i != j), reverse=True)[:25]
    assert [int(pair.count) for pair in views.pairs] == expected
    for pair in views.pairs:
        i, j = int(pair.label[1:]), int(pair.predicted[1:])
        assert matrix[i, j] == int(pair.count)
        assert int(pair.n.replace(",", "")) == matrix[i].sum()
        assert pair.share == f"{100 * matrix[i, j] / matrix[i].sum():.1f}\xa0%"


def test_large_matrices_are_a_picture_with_a_pixel_a_cell() -> None:
    count = MOST_IN_A_TABLE + 1
    matrix = np.eye(count, dtype=int) * 99
    matrix[4, 7] = 1
    views = confusion_views(matrix.tolist(), [str(i) for i in range(count)])
    assert views is not None
    assert views.raw == ()
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(views.picture))).convert("RGB")).astype(int)
    assert pixels.shape == (count, count, 3)
    assert pixels[0, 1].tolist() == [255, 255, 255]
    assert pixels[0, 0, 2] > pixels[0, 0, 0]  # right answers are blue
    assert pixels[4, 7, 0] > pixels[4, 7, 2]  # mistakes are red, and 1 % is seen
    assert pixels[4, 7, 2] < 250


def test_a_thousand_classes_stay_small() -> None:
    random = np.random.default_rng(0)
    matrix = np.diag(random.integers(5, 50, 1000))
    np.add.at(matrix, (random.integers(0, 1000, 20_000), random.integers(0, 1000, 20_000)), 1)
    views = confusion_views(matrix.tolist(), [str(i) for i in range(1000)])
    assert views is not None
    assert len(views.picture) < 200_000


def test_nothing_evaluated_has_no_matrix() -> None:
    assert confusion_views([], []) is None


@pytest.mark.parametrize("right", [True, False])
def test_heat_rises_with_the_share_and_is_empty_only_at_zero(right: bool) -> None:
    levels = [heat_level(share, right=right) for share in np.linspace(0, 1, 200)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, 10)
    assert min(levels[1:]) >= 1
