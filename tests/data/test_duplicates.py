from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from shapes import textures
from sklearn.datasets import load_digits

from tintype.config import DataConfig
from tintype.data.cache import build_cache
from tintype.data.duplicates import Duplicates, find_duplicates
from tintype.data.likeness import measure, mirror_signs, thumbnail, upside_down_signs
from tintype.data.sources import read_index

Image = NDArray[np.uint8]


def compressed(image: Image, quality: int) -> Image:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], -1), np.uint8)


def scaled(image: Image, factor: float) -> Image:
    side = image.shape[0]
    small = cv2.resize(image, (round(side * factor),) * 2, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def search(images: Image, content: NDArray[np.uint64] | None = None) -> Duplicates:
    rows = np.arange(len(images))
    content = rows.astype(np.uint64) if content is None else content
    return find_duplicates(images, rows, content, measure(images, rows))


def pairs_of(copies: Duplicates) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in copies.pairs}


CHANGES: dict[str, Callable[[Image], Image]] = {
    "compressed hard": lambda image: compressed(image, 40),
    "scaled down and compressed": lambda image: compressed(scaled(image, 0.6), 75),
    "scaled up": lambda image: scaled(image, 1.5),
    "brightened": lambda image: np.clip(image * 1.1 + 10.0, 0, 255).astype(np.uint8),
    "shifted by two pixels": lambda image: np.roll(image, 2, axis=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(change: str) -> None:
    originals = textures(500)
    chosen = list(range(0, 500, 10))
    copies = np.stack([CHANGES[change](originals[number]) for number in chosen])
    found = search(np.concatenate([originals, copies]))
    expected = {(number, 500 + place) for place, number in enumerate(chosen)}
    assert pairs_of(found) <= expected
    assert len(pairs_of(found)) >= 0.95 * len(expected)
    assert not found.is_mirrored.any()


def test_mirrored_copies_are_found_and_marked() -> None:
    originals = textures(300)
    copies = np.stack([compressed(np.ascontiguousarray(image[:, ::-1]), 80) for image in originals[:40]])
    found = search(np.concatenate([originals, copies]))
    assert pairs_of(found) == {(number, 300 + number) for number in range(40)}
    assert found.is_mirrored.all()
    assert found.is_close.all()


def test_frames_of_a_moving_camera_are_pairs_of_their_own_scene() -> None:
    scenes = textures(60, side=80)
    frames = np.stack([scene[:64, 2 * t : 64 + 2 * t] for scene in scenes for t in range(6)])
    found = search(frames)
    assert (found.pairs[:, 0] // 6 == found.pairs[:, 1] // 6).all()
    assert len(np.unique(found.pairs)) > 0.9 * len(frames)


def test_equal_files_are_grouped_by_their_bytes_and_searched_once() -> None:
    images = textures(6)[[0, 1, 0, 2, 0, 1]]
    found = search(images, np.array([7, 8, 7, 9, 7, 8], dtype=np.uint64))
    assert found.first.tolist() == [0, 1, 0, 3, 0, 1]
    assert len(found.pairs) == 0
    assert found.is_first.tolist() == [True, True, False, True, False, False]


def test_near_copies_of_one_image_leave_one_first() -> None:
    image = textures(1)[0]
    found = search(np.stack([image, compressed(image, 90), compressed(image, 60), *textures(30, seed=1)]))
    assert found.is_first[:3].tolist() == [True, False, False]
    assert found.is_first[3:].all()


def test_different_handwritten_digits_are_no_copies() -> None:
    digits = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    assert len(search(digits).pairs) == 0


def test_scribbles_are_no_copies_but_a_copy_is() -> None:
    random = np.random.default_rng(3)
    scribbles = np.zeros((2000, 28, 28, 1), np.uint8)
    for image in scribbles:
        points = np.cumsum(random.uniform((-4, 1), (4, 6), size=(6, 2)), axis=0) + np.array([14, 0])
        cv2.polylines(image, [np.round(points * 16).astype(np.int32)], False, 255, 2, cv2.LINE_AA, 4)
    assert len(search(scribbles).pairs) == 0
    copy = compressed(scribbles[5], 90).reshape(1, 28, 28, 1)
    assert pairs_of(search(np.concatenate([scribbles, copy]))) == {(5, 2000)}


def test_same_drawing_in_another_colour_is_no_copy() -> None:
    random = np.random.default_rng(0)
    corners = random.integers(4, 40, size=(200, 2))
    for one, other in (((220, 40, 40), (40, 120, 40)), ((230, 230, 230), (120, 120, 120))):
        images = np.full((400, 48, 48, 3), 255, np.uint8)
        for number, (x, y) in enumerate(corners.tolist()):
            images[number, y : y + 7, x : x + 7] = one
            images[200 + number, y : y + 7, x : x + 7] = other
        between = {(a, b) for a, b in pairs_of(search(images)) if a < 200 <= b}
        assert between == set()


def test_framed_pictures_are_no_copies() -> None:
    images = textures(400) // 4 + 20
    images[:, :, :14] = images[:, :, -14:] = 250
    assert len(search(images).pairs) == 0


def test_blank_and_shaded_images_are_compared_by_bytes_alone() -> None:
    random = np.random.default_rng(0)
    blank = random.integers(250, 253, size=(500, 32, 32, 1)).astype(np.float64)
    shaded = np.linspace(60, 200, 32)[None, :, None, None] + random.integers(-2, 3, size=(500, 32, 32, 1))
    found = search(np.concatenate([blank, shaded]).astype(np.uint8))
    assert len(found.pairs) == 0


def test_thousands_of_copies_of_one_image_do_not_explode() -> None:
    image = textures(1, side=32)[0]
    random = np.random.default_rng(0)
    noisy = np.clip(image + random.normal(0, 3, size=(5000, 32, 32, 3)), 0, 255).astype(np.uint8)
    start = time.process_time()
    found = search(np.concatenate([textures(200, side=32, seed=1), noisy]))
    assert time.process_time() - start < 20
    assert len(found.pairs) < 9 * 5000
    assert (found.pairs >= 200).all()
    assert len(np.unique(found.pairs)) == 5000


@pytest.mark.parametrize("images", [textures(1), np.zeros((3, 8, 8, 1), np.uint8), textures(2, side=4)])
def test_hardly_any_images_are_no_trouble(images: Image) -> None:
    assert len(search(images).pairs) == 0


def test_spectrum_follows_reflections_and_never_exceeds_the_pixels_distance() -> None:
    images = textures(40)
    rows = np.arange(40)
    spectrum = measure(images, rows).spectrum
    np.testing.assert_allclose(measure(images[:, :, ::-1], rows).spectrum, spectrum * mirror_signs(), atol=0.02)
    np.testing.assert_allclose(measure(images[:, ::-1], rows).spectrum, spectrum * upside_down_signs(), atol=0.02)
    grey = np.stack([thumbnail(image, 16) for image in images]).astype(float).reshape(40, -1)
    unit = grey - grey.mean(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pixels = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    coarse = np.linalg.norm(spectrum[:, None].astype(float) - spectrum[None], axis=2)
    assert (coarse <= pixels + 1e-4).all()
    # A coordinate that carried nothing would make the search blind.
    assert (spectrum.std(axis=0) > 0.01).all()


def test_relief_is_what_a_slope_does_not_explain() -> None:
    y, x = np.mgrid[0:16, 0:16].astype(float)
    slope = (3 * x + 5 * y + 20).astype(np.uint8)
    checked = np.where((x + y) % 2, 140, 100).astype(np.uint8)
    relief = measure(np.stack([slope, checked])[..., None], np.arange(2)).relief
    assert relief[0] < 0.5
    assert relief[1] == pytest.approx(20, abs=0.2)


@pytest.mark.data
def test_planted_copies_among_real_photos(
    shared_data: Callable[[str], object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = str(shared_data("cats_dogs"))
    config = DataConfig(source=source, image_size=96, color="rgb", resize="pad")
    images = np.array(build_cache(read_index(config), config).images[::3])
    random = np.random.default_rng(1)
    chosen = random.choice(len(images), 120, replace=False)
    copies = [
        compressed(scaled(images[number], random.uniform(0.5, 1.6)), int(random.integers(40, 95))) for number in chosen
    ]
    found = pairs_of(search(np.concatenate([images, np.stack(copies)])))
    expected = {(int(number), len(images) + place) for place, number in enumerate(chosen)}
    assert len(expected & found) >= 0.99 * len(expected)
    assert len(expected & found) >= 0.99 * len(found)


@pytest.mark.data
def test_different_digits_of_mnist_are_no_copies(shared_data: Callable[[str], object]) -> None:
    config = DataConfig(source=str(shared_data("mnist")), image_size=28, color="grey", resize="stretch")
    arrays = read_index(config).arrays
    assert arrays is not None
    assert len(search(arrays[:20_000].reshape(-1, 28, 28, 1)).pairs) == 0
