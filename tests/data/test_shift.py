from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.index import ImageIndex
from tintype.data.shift import (
    compare_figures,
    compare_statistics,
    dark_on_light,
    image_statistics,
    polarity_differs,
)
from tintype.data.sources import read_index
from tintype.records import ImageStatistics

DIGITS = ImageStatistics(
    n=500, mean=33, deviation=77, border=0, centre=90, dark_on_light=0, color=0, width=28, height=28
)
DRAWN = replace(DIGITS, mean=222, border=255, centre=165, dark_on_light=1.0)
PHOTOS = ImageStatistics(
    n=500, mean=118, deviation=50, border=120, centre=116, dark_on_light=0.5, color=1, width=288, height=217
)


def cache_of(images_NHWC: NDArray[np.uint8]) -> ImageCache:
    n, side, _, channels = images_NHWC.shape
    index = ImageIndex(
        kind="npz",
        root=Path("x.npz"),
        classes=("a", "b"),
        paths=tuple(f"train/{number:05}" for number in range(n)),
        labels=np.arange(n) % 2,
        given_split=np.full(n, -1, dtype=np.int8),
        groups=None,
        arrays=images_NHWC,
        description="",
    )
    return build_cache(index, DataConfig(image_size=side, color="rgb" if channels == 3 else "grey", resize="stretch"))


def real_statistics(source: Path, size: int, color: str, resize: str, part: int | None = None) -> ImageStatistics:
    config = DataConfig.model_validate(
        {"source": str(source), "image_size": size, "color": color, "resize": resize, "skip_bad": True}
    )
    cache = build_cache(read_index(config), config)
    every = np.arange(len(cache.index))
    return image_statistics(cache, every if part is None else every[cache.index.given_split == part])


def strokes(count: int, ground: int, ink: int, seed: int = 0) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    images = np.full((count, 28, 28, 1), ground, np.uint8)
    for image in images:
        x = int(random.integers(8, 18))
        image[5:23, x : x + 3] = ink
    return images


def test_figures_are_those_of_a_plain_count() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, size=(7, 16, 16, 3), dtype=np.uint8)
    images[3:] = images[3:, :, :, :1]
    found = image_statistics(cache_of(images), np.arange(7))
    grey = images @ np.array([0.299, 0.587, 0.114])
    is_inside = np.zeros((16, 16), dtype=bool)
    is_inside[1:15, 1:15] = True
    assert found.n == 7
    assert found.mean == pytest.approx(grey.mean(), abs=0.6)
    assert found.deviation == pytest.approx(np.mean([image.std() for image in grey]), abs=0.6)
    assert found.border == pytest.approx(np.mean([image[~is_inside].mean() for image in grey]), abs=0.6)
    assert found.centre == pytest.approx(grey[:, 4:12, 4:12].mean(), abs=0.6)
    assert found.color == pytest.approx(3 / 7)
    assert found.dark_on_light == 0.5
    assert (found.width, found.height) == (16, 16)


def test_many_images_are_sampled_evenly_and_bad_ones_passed_over() -> None:
    images = np.zeros((5000, 4, 4, 1), np.uint8)
    images[2500:] = 200
    cache = cache_of(images)
    found = image_statistics(cache, np.arange(5000))
    assert found.n == 2000
    assert found.mean == pytest.approx(100)
    cache = replace(cache, usable=np.arange(5000) < 2500)
    assert image_statistics(cache, np.arange(5000)).mean == 0


@pytest.mark.parametrize(("ground", "ink", "share"), [(255, 0, 1.0), (0, 255, 0.0), (170, 60, 1.0), (80, 200, 0.0)])
def test_strokes_have_the_polarity_they_are_drawn_in(ground: int, ink: int, share: float) -> None:
    images = strokes(50, ground, ink)
    assert image_statistics(cache_of(images), np.arange(50)).dark_on_light == share
    assert (dark_on_light(images) == share).all()


def test_polarity_is_told_image_by_image() -> None:
    empty = np.full((1, 28, 28, 1), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, size=(1, 28, 28, 1), dtype=np.uint8)
    found = dark_on_light(np.concatenate([strokes(1, 255, 0), strokes(1, 0, 255), empty, noise]))
    np.testing.assert_array_equal(found, [1, 0, np.nan, np.nan])


def test_few_images_on_an_even_ground_are_not_the_polarity_of_all() -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(60, 28, 28, 1), dtype=np.uint8)
    images = np.concatenate([strokes(40, 255, 0), noise])
    assert image_statistics(cache_of(images), np.arange(100)).dark_on_light == 0.5
    assert image_statistics(cache_of(images), np.arange(70)).dark_on_light == 1.0


@given(st.integers(0, 255), st.integers(0, 255))
def test_inversion_turns_polarity_round(ground: int, ink: int) -> None:
    images = strokes(5, ground, ink)
    one, other = dark_on_light(images), dark_on_light(255 - images)
    np.testing.assert_array_equal(one, 1 - other)


def test_polarity_differs_only_between_clear_opposites() -> None:
    assert polarity_differs(DIGITS, DRAWN)
    assert polarity_differs(DRAWN, DIGITS)
    assert polarity_differs(DIGITS, replace(DRAWN, dark_on_light=0.85, border=170))
    assert not polarity_differs(DIGITS, DIGITS)
    assert not polarity_differs(DIGITS, replace(DRAWN, dark_on_light=0.7))
    assert not polarity_differs(DIGITS, PHOTOS)
    # Things photographed on white and on black are not negatives of each other.
    assert not polarity_differs(replace(DIGITS, color=0.9), replace(DRAWN, color=0.9))
    # Two grounds of nearly the same grey are not told apart by inversion.
    assert not polarity_differs(replace(DIGITS, border=100), replace(DRAWN, border=110))


def codes(trained: ImageStatistics, other: ImageStatistics) -> list[str]:
    return [finding.code for finding in compare_statistics(trained, other)]


def test_inverted_images_differ_in_polarity_alone() -> None:
    assert codes(DIGITS, DRAWN) == ["shift-polarity"]
    (finding,) = compare_statistics(DIGITS, DRAWN)
    assert "these images are dark on light, the training images light on dark" in finding.title
    assert "inverted before prediction" in finding.remedy
    assert "100 % dark on light, mean border 255" in finding.evidence[0]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"deviation": 20.0}, "shift-contrast", "less contrast"),
        ({"deviation": 110.0}, "shift-contrast", "more contrast"),
        ({"mean": 180.0}, "shift-brightness", "brighter"),
        ({"mean": 40.0}, "shift-brightness", "darker"),
        ({"width": 90.0, "height": 70.0}, "shift-size", "90x70"),
        ({"color": 0.0}, "shift-color", "these images are grey, the training images in colour"),
    ],
)
def test_each_difference_has_its_own_finding(changes: dict[str, float], code: str, words: str) -> None:
    (finding,) = compare_statistics(PHOTOS, replace(PHOTOS, **changes))  # type: ignore[arg-type]
    assert finding.code == code
    assert words in finding.title
    assert finding.remedy


def test_small_differences_and_larger_files_are_no_finding() -> None:
    assert codes(PHOTOS, PHOTOS) == []
    alike = replace(PHOTOS, mean=150, deviation=65, width=200, height=150, color=0.5)
    assert codes(PHOTOS, alike) == []
    assert codes(PHOTOS, replace(PHOTOS, width=4000, height=3000)) == []


@pytest.mark.data
def test_real_digits_differ_in_polarity_and_nothing_else(shared_data: Callable[[str], Path]) -> None:
    trained = real_statistics(shared_data("mnist"), 28, "grey", "stretch", 0)
    test = real_statistics(shared_data("mnist"), 28, "grey", "stretch", 2)
    drawn = real_statistics(shared_data("digits_drawn"), 28, "grey", "stretch")
    photos = real_statistics(shared_data("digits_photos"), 28, "grey", "pad")
    assert codes(trained, test) == []
    assert codes(trained, drawn) == ["shift-polarity"]
    assert codes(drawn, trained) == ["shift-polarity"]
    assert "shift-polarity" in codes(trained, photos)


@pytest.mark.data
def test_real_photos_have_no_polarity(shared_data: Callable[[str], Path]) -> None:
    trained = real_statistics(shared_data("cats_dogs"), 64, "rgb", "pad", 0)
    test = real_statistics(shared_data("cats_dogs"), 64, "rgb", "pad", 2)
    x_rays = real_statistics(shared_data("chest_xray"), 64, "grey", "pad")
    assert codes(trained, test) == []
    assert not polarity_differs(trained, x_rays)
    assert codes(trained, x_rays) == ["shift-color"]


def test_figures_stand_side_by_side_with_the_deviations_between() -> None:
    trained = replace(PHOTOS, spread={"mean": 20.0, "deviation": 10.0, "border": 30.0, "centre": 25.0, "side": 40.0})
    rows = {row.figure.split(" (")[0]: row for row in compare_figures(trained, replace(PHOTOS, mean=168, height=97))}
    assert rows["brightness"].apart == pytest.approx(2.5)
    assert (rows["brightness"].other, rows["brightness"].trained) == (168, 118)
    assert rows["size"].apart == pytest.approx(-3)
    assert rows["contrast"].apart == 0
    assert rows["in colour"].apart is None
    assert rows["in colour"].kind == "share"


def test_negatives_are_held_against_what_the_network_sees_of_them() -> None:
    trained = replace(DIGITS, spread={"mean": 11.0, "border": 0.0})
    rows = {row.figure: row for row in compare_figures(trained, DRAWN)}
    assert rows["brightness (mean grey level), inverted"].apart == pytest.approx(0)
    border = rows["background (grey level of the border), inverted"]
    assert (border.other, border.apart) == (0, None), "training images all agree in it"
    contrast = rows["contrast (deviation of the grey levels)"]
    assert contrast.apart is None, "not known of models of earlier versions"


def test_spread_is_the_deviation_from_image_to_image() -> None:
    images = np.random.default_rng(0).integers(0, 200, size=(9, 16, 16, 1), dtype=np.uint8)
    images[::2] //= 3
    found = image_statistics(cache_of(images), np.arange(9))
    assert found.spread["mean"] == pytest.approx(images.mean((1, 2, 3)).std(), rel=1e-4)
    assert found.spread["deviation"] == pytest.approx(images.std((1, 2, 3)).std(), rel=1e-4)
    assert found.spread["side"] == 0
